# UperNet on DeiT-small with LN+ReLU on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_deit_small_lnrelu_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 53.55M parameters; backbone 21.67M, 31.72G MACs at 512x512
# Starts from: random weights; those of dynconv_deit_small_lnrelu_imagenet are better: --weights
#   FILE (mmvitconv://deit_small fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/dynconv_deit_small.py"]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),  # maps that end where the image does
    backbone=_base_.dynconv_deit_small,
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=384, patch_size=16, mode="taps"),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
