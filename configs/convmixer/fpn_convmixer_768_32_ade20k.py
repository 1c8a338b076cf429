# Semantic FPN with ConvMixer-768/32 in patches of 8 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/convmixer/fpn_convmixer_768_32_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; the pyramid is ours, the recipe
#            FCViT's
# Measured:  not trained here; model 27.53M parameters; backbone 20.38M, 82.85G MACs at 512x512
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 7)
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    backbone=_base_.convmixer_768_32,
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=768, patch_size=8, mode="taps"),
        dict(type="FPN", in_channels=[768] * 4, out_channels=256, num_outs=4),
    ],
)
