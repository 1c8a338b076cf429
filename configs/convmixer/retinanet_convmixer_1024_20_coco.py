# RetinaNet with ConvMixer-1024/20 in patches of 16 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/retinanet_convmixer_1024_20_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 39.71M parameters; backbone 23.54M, 93.67G MACs at 800x1280
# Starts from: mmvitconv://convmixer_1024_20 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 14)
_base_ = "./retinanet_convmixer_768_32_coco.py"
model = dict(
    backbone=dict(
        arch="1024_20", patch_size=16, init_cfg=dict(checkpoint="mmvitconv://convmixer_1024_20")
    ),
    neck=[
        dict(_base_.taps, in_channels=1024, patch_size=16),
        dict(_base_.fpn, in_channels=[1024] * 3),
    ],
)
