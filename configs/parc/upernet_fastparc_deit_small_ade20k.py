# UperNet on DeiT-small with ParC for attention on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_fastparc_deit_small_ade20k.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 46.59M parameters; backbone 14.70M, 14.96G MACs at 512x512
# Starts from: random weights; those of fastparc_deit_small_imagenet are better: --weights FILE
_base_ = [
    "../_base_/recipes/upernet_ade20k_160k.py",
    "../_base_/schedules/dynconv_no_decay.py",
    "../_base_/backbones/fastparc_deit_small.py",
]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),  # maps that end where the image does
    backbone=dict(
        _base_.fastparc_deit_small,
        backbone=dict(_base_.fastparc_deit_small.backbone, out_indices=(2, 5, 8, 11)),
    ),
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=384, patch_size=16, mode="taps"),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
