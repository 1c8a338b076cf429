# RetinaNet with ConvMixer-1536/20 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/retinanet_convmixer_1536_20_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 63.70M parameters; backbone 50.16M, 799.51G MACs at 800x1280
# Starts from: mmvitconv://convmixer_1536_20 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 7)
_base_ = "./retinanet_convmixer_768_32_coco.py"
model = dict(
    backbone=dict(arch="1536_20", init_cfg=dict(checkpoint="mmvitconv://convmixer_1536_20")),
    neck=[
        dict(_base_.taps, in_channels=1536, patch_size=8),
        dict(_base_.fpn, in_channels=[1536] * 3),
    ],
)
