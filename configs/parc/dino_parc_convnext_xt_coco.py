# DINO with ParC-ConvNeXt-XT on COCO: 12 epochs, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/dino_parc_convnext_xt_coco.py 8
# Published: nothing: this detector is ours; its recipe is mmdet's DINO with four scales
# Measured:  not trained here; model 26.64M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/dino_coco_1x.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=dict(_base_.parc_convnext_xt, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[96, 192, 384]),
)
