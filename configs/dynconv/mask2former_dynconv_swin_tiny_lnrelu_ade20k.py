# Mask2Former with Swin-tiny with LN+ReLU on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh mask2former_dynconv_swin_tiny_lnrelu_ade20k 8
# Published: nothing: this model is ours; its recipe is mmseg's Mask2Former, biases not decayed
# Measured:  not trained here; model 47.44M parameters; backbone 27.52M, 25.02G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = [
    "../_base_/recipes/mask2former_ade20k_160k.py",
    "../_base_/backbones/dynconv_swin_tiny.py",
]
model = dict(
    backbone=_base_.dynconv_swin_tiny,
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
