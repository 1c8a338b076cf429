# Semantic FPN on Swin-tiny with LN+ReLU on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/dynconv/fpn_dynconv_swin_tiny_lnrelu_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the recipe is
#            FCViT's
# Measured:  not trained here; model 31.89M parameters; backbone 27.52M, 25.02G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=_base_.dynconv_swin_tiny,
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
