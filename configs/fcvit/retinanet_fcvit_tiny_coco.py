# RetinaNet with FCViT-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/retinanet_fcvit_tiny_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 14.17M parameters; backbone 4.46M, 18.39G MACs at 800x1280
# Starts from: mmvitconv://fcvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_fcvit_s12_coco.py"
model = dict(
    backbone=dict(arch="tiny", init_cfg=dict(checkpoint="mmvitconv://fcvit_tiny")),
    neck=dict(in_channels=[64, 160, 320]),
)
