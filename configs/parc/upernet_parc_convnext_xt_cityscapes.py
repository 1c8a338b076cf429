# UperNet with ParC-ConvNeXt-XT on Cityscapes: 80k iterations, batch 4 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_convnext_xt_cityscapes.py 4
# Published: nothing: this model is ours, and so is the recipe: our UperNet's, as long as mmseg's
# Measured:  not trained here; model 36.18M parameters; backbone 7.03M, 11.94G MACs at 512x1024
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/upernet_cityscapes_80k.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=_base_.parc_convnext_xt,
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
