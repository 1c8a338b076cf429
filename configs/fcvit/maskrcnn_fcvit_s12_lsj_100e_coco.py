# Mask R-CNN with FCViT-S12 on COCO: 100 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/maskrcnn_fcvit_s12_lsj_100e_coco.py 8
# Published: nothing: this recipe is ours: large-scale jitter and 100 epochs, as ViTDet's
# Measured:  not trained here; model 34.36M parameters; backbone 14.19M, 53.96G MACs at 800x1280
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/maskrcnn_coco_lsj_100e.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    neck=dict(in_channels=[64, 128, 320, 512]),
)
