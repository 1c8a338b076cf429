# RetinaNet with ConvMixer-1024/12 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/retinanet_convmixer_1024_12_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 25.61M parameters; backbone 13.64M, 217.06G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./retinanet_convmixer_768_32_coco.py"
model = dict(
    backbone=dict(arch="1024_12", init_cfg=None),
    neck=[
        dict(_base_.taps, in_channels=1024, patch_size=8),
        dict(_base_.fpn, in_channels=[1024] * 3),
    ],
)
