# Mask R-CNN with FCViT-S12 on COCO: 1x, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_s12_coco.py 8
# Published: box AP 42.3, mask AP 38.6 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 34.36M parameters; backbone 14.19M, 53.96G MACs at 800x1280
# The authors train with mixed precision: add --amp to the command.
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# The authors' recipe: batch 8 x 4, AdamW 2e-4 with weight decay 1e-4 on everything, no stochastic
# depth.
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
auto_scale_lr = dict(base_batch_size=8 * 4)
