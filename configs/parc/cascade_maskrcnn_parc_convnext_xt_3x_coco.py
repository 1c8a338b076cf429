# Cascade Mask R-CNN with ParC-ConvNeXt-XT on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/cascade_maskrcnn_parc_convnext_xt_3x_coco.py 8
# Published: box AP 47.7, mask AP 41.5 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 64.95M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# The recipe, warm-up, batch and exemptions from weight decay included, is that of the detection
# repository of Fast-ParC's first author, without mixed precision.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = [
    "../_base_/recipes/cascade_maskrcnn_coco_3x.py",
    "../_base_/backbones/parc_convnext_xt.py",
    "../_base_/schedules/fastparc_detectors.py",
]
model = dict(
    backbone=dict(_base_.parc_convnext_xt, drop_path_rate=0.4),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
optim_wrapper = _base_.layer_decay
