# UperNet with ParC-ConvNeXt-XT on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_convnext_xt_ade20k.py 8
# Published: mIoU 42.32 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 36.28M parameters; backbone 7.03M, 5.96G MACs at 512x512
# The recipe is that of the segmentation repository of Fast-ParC's first author: stochastic depth of
# 0.4, a stage-wise decay of 0.9, no weight decay of biases and one-dimensional parameters.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = [
    "../_base_/recipes/upernet_ade20k_160k_slide.py",
    "../_base_/backbones/parc_convnext_xt.py",
]
model = dict(
    backbone=dict(_base_.parc_convnext_xt, drop_path_rate=0.4),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
optim_wrapper = dict(
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9, decay_type="stage_wise", num_layers=6),
)
