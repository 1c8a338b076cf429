# UperNet on Swin-tiny with LN+ReLU in its windows on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_tiny_lnrelu_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 59.94M parameters; backbone 27.52M, 25.02G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better:
#   --weights FILE (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=_base_.dynconv_swin_tiny,
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
