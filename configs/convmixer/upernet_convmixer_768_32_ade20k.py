# UperNet with ConvMixer-768/32 in patches of 8 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_768_32_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 56.88M parameters; backbone 20.38M, 82.85G MACs at 512x512
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch
#   (the stem is resized from patches of 7)
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),  # maps that end where the image does
    # Strides of powers of two. Statistics of two images are too noisy; from scratch give SyncBN.
    backbone=_base_.convmixer_768_32,
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=768, patch_size=8, mode="taps"),
    decode_head=dict(in_channels=[768] * 4),
    auxiliary_head=dict(in_channels=768),
)
