# UperNet with Swin-tiny with LN+ReLU on Cityscapes: 80k iterations, batch 4 x 2.
#
# Command:   bash tools/dist_train.sh upernet_dynconv_swin_tiny_lnrelu_cityscapes 4
# Published: nothing: this model is ours, and so is the recipe: our UperNet's, as long as mmseg's
# Measured:  not trained here; model 59.84M parameters; backbone 27.52M, 49.31G MACs at 512x1024
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/upernet_cityscapes_80k.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=_base_.dynconv_swin_tiny,
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
