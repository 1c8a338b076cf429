# Semantic FPN with ParC-ConvNeXt-XT on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/parc/fpn_parc_convnext_xt_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 11.22M parameters; backbone 7.03M, 5.96G MACs at 512x512
# As in classification: stochastic depth 0.1. As in the authors' segmentors: layer scale from 1.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=_base_.parc_convnext_xt,
    neck=dict(in_channels=[48, 96, 192, 384]),
)
