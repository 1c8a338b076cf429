# Mask R-CNN with FCViT-S24 on COCO: 1x, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_s24_coco.py 8
# Published: box AP 44.1, mask AP 39.9 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 46.62M parameters; backbone 26.45M, 103.19G MACs at 800x1280
# The authors train with mixed precision: add --amp to the command.
# Starts from: mmvitconv://fcvit_s24 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_fcvit_s12_coco.py"
model = dict(backbone=dict(arch="s24", init_cfg=dict(checkpoint="mmvitconv://fcvit_s24")))
