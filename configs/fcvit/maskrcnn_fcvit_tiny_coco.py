# Mask R-CNN with FCViT-tiny on COCO: 1x, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_tiny_coco.py 8
# Published: nothing for this size; the recipe is that of S12 and S24
# Measured:  not trained here; model 24.52M parameters; backbone 4.46M, 18.39G MACs at 800x1280
# The authors train with mixed precision: add --amp to the command.
# Starts from: mmvitconv://fcvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_fcvit_s12_coco.py"
model = dict(
    backbone=dict(arch="tiny", init_cfg=dict(checkpoint="mmvitconv://fcvit_tiny")),
    neck=dict(in_channels=[32, 64, 160, 320]),
)
