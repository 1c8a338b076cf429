# DINO with LightViT-tiny on COCO: 12 epochs, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/dino_lightvit_tiny_coco.py 8
# Published: nothing: this detector is ours; its recipe is mmdet's DINO with four scales
# Measured:  not trained here; model 27.03M parameters; backbone 7.77M, 14.21G MACs at 800x1280
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/dino_coco_1x.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    neck=dict(in_channels=[64, 128, 256]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
