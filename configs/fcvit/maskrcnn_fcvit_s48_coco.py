# Mask R-CNN with FCViT-S48 on COCO: 1x, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_s48_coco.py 8
# Published: nothing for this size; the recipe is that of S12 and S24
# Measured:  not trained here; model 71.13M parameters; backbone 50.97M, 201.65G MACs at 800x1280
# The authors train with mixed precision: add --amp to the command.
# Starts from: mmvitconv://fcvit_s48 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_fcvit_s12_coco.py"
model = dict(backbone=dict(arch="s48", init_cfg=dict(checkpoint="mmvitconv://fcvit_s48")))
