# UperNet on Swin-tiny with ParC for attention on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_fastparc_swin_tiny_ade20k.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 51.41M parameters; backbone 18.99M, 16.06G MACs at 512x512
# Starts from: random weights; those of fastparc_swin_tiny_imagenet are better: --weights FILE
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/fastparc_swin_tiny.py"]
model = dict(
    backbone=_base_.fastparc_swin_tiny,
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
