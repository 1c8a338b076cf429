# RetinaNet with LightViT-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/retinanet_lightvit_tiny_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 17.29M parameters; backbone 7.77M, 14.21G MACs at 800x1280
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/retinanet_coco_1x.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    neck=dict(in_channels=[64, 128, 256]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
