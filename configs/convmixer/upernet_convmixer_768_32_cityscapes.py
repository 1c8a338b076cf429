# UperNet with ConvMixer-768/32 on Cityscapes: 80k iterations, batch 4 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_768_32_cityscapes.py 4
# Published: nothing: this model is ours, and so is the recipe: our UperNet's, as long as mmseg's
# Measured:  not trained here; model 56.78M parameters; backbone 20.38M, 165.69G MACs at 512x1024
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 7)
_base_ = ["../_base_/recipes/upernet_cityscapes_80k.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),  # maps that end where the image does
    backbone=_base_.convmixer_768_32,
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=768, patch_size=8, mode="taps"),
    decode_head=dict(in_channels=[768] * 4),
    auxiliary_head=dict(in_channels=768),
)
