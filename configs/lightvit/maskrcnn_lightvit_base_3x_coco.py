# Mask R-CNN with LightViT-base on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/maskrcnn_lightvit_base_3x_coco.py 8
# Published: box AP 45.0, mask AP 41.2 (paper and README of github.com/hunto/LightViT)
# Measured:  not trained here; model 53.65M parameters; backbone 33.26M, 68.12G MACs at 800x1280
# Starts from: mmvitconv://lightvit_base (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_lightvit_tiny_3x_coco.py"
model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="mmvitconv://lightvit_base")),
    neck=dict(in_channels=[128, 256, 512]),
)
