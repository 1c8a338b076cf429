# Semantic FPN with FCViT-S12 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fpn_fcvit_s12_ade20k.py 8
# Published: mIoU 43.3 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 18.46M parameters; backbone 14.19M, 13.81G MACs at 512x512
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    neck=dict(in_channels=[64, 128, 320, 512]),
)
