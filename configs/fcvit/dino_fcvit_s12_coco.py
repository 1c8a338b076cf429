# DINO with FCViT-S12 on COCO: 12 epochs, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/dino_fcvit_s12_coco.py 8
# Published: nothing: this detector is ours; its recipe is mmdet's DINO with four scales
# Measured:  not trained here; model 34.17M parameters; backbone 14.19M, 53.96G MACs at 800x1280
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/dino_coco_1x.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=dict(_base_.fcvit_s12, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 320, 512]),
)
