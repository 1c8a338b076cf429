# Mask R-CNN with LightViT-small on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/maskrcnn_lightvit_small_3x_coco.py 8
# Published: box AP 43.2, mask AP 39.9 (paper and README of github.com/hunto/LightViT)
# Measured:  not trained here; model 37.76M parameters; backbone 17.42M, 31.45G MACs at 800x1280
# Starts from: mmvitconv://lightvit_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_lightvit_tiny_3x_coco.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://lightvit_small")),
    neck=dict(in_channels=[96, 192, 384]),
)
