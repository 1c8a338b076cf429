# Semantic FPN on DeiT-small with LN+ReLU on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/dynconv/fpn_dynconv_deit_small_lnrelu_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the recipe is
#            FCViT's
# Measured:  not trained here; model 27.84M parameters; backbone 21.67M, 31.72G MACs at 512x512
# Starts from: random weights; those of dynconv_deit_small_lnrelu_imagenet are better: --weights
#   FILE (mmvitconv://deit_small fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/dynconv_deit_small.py"]
model = dict(
    backbone=_base_.dynconv_deit_small,
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=384, patch_size=16, mode="taps"),
        dict(type="FPN", in_channels=[384] * 4, out_channels=256, num_outs=4),
    ],
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
