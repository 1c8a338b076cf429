# Mask R-CNN with FCViT-S12 on COCO: 3x, several scales, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_s12_3x_coco.py 8
# Published: nothing: the authors give the 1x schedule only; scales and 36 epochs are ours
# Measured:  not trained here; model 34.36M parameters; backbone 14.19M, 53.96G MACs at 800x1280
# Optimizer and batch are those of the authors' 1x recipe. The authors train with mixed precision:
# add --amp to the command.
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/maskrcnn_coco_3x.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
auto_scale_lr = dict(base_batch_size=8 * 4)
