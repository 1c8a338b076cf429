# Mask R-CNN with FCViT-S48 on COCO: 3x, several scales, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_s48_3x_coco.py 8
# Published: nothing: the authors give the 1x schedule only; scales and 36 epochs are ours
# Measured:  not trained here; model 71.13M parameters; backbone 50.97M, 201.65G MACs at 800x1280
# Optimizer and batch are those of the authors' 1x recipe. The authors train with mixed precision:
# add --amp to the command.
# Starts from: mmvitconv://fcvit_s48 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_fcvit_s12_3x_coco.py"
model = dict(backbone=dict(arch="s48", init_cfg=dict(checkpoint="mmvitconv://fcvit_s48")))
