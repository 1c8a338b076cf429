# RetinaNet with ConvMixer-256/8 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/retinanet_convmixer_256_8_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 10.25M parameters; backbone 0.64M, 9.99G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./retinanet_convmixer_768_32_coco.py"
model = dict(
    backbone=dict(arch="256_8", init_cfg=None),
    neck=[
        dict(_base_.taps, in_channels=256, patch_size=8),
        dict(_base_.fpn, in_channels=[256] * 3),
    ],
)
