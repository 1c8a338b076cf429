# RetinaNet with LightViT-small on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/retinanet_lightvit_small_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 27.31M parameters; backbone 17.42M, 31.45G MACs at 800x1280
# Starts from: mmvitconv://lightvit_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_lightvit_tiny_coco.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://lightvit_small")),
    neck=dict(in_channels=[96, 192, 384]),
)
