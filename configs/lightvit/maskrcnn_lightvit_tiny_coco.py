# Mask R-CNN with LightViT-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/maskrcnn_lightvit_tiny_coco.py 8
# Published: box AP 37.8, mask AP 35.9 (paper and README of github.com/hunto/LightViT)
# Measured:  not trained here; model 28.05M parameters; backbone 7.77M, 14.21G MACs at 800x1280
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    neck=dict(type="mmvitconv.LightViTFPN", in_channels=[64, 128, 256]),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4 * (8 * 2) / 16, weight_decay=0.04),
    # other biases than those of the tables decay
    paramwise_cfg=dict(_base_.no_decay, norm_decay_mult=0.0),
)
