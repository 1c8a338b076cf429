# UperNet on DeiT-small with ParC for attention on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_fastparc_deit_small_ade20k.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 46.59M parameters; backbone 14.70M, 14.96G MACs at 512x512
# Starts from: random weights; those of fastparc_deit_small_imagenet are better: --weights FILE
_base_ = [
    "../_base_/recipes/upernet_ade20k_160k.py",
    "../_base_/schedules/dynconv_no_decay.py",
]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),  # maps that end where the image does
    backbone=dict(
        type="mmvitconv.WithParC",
        fraction=1.0,  # all attention of all blocks
        backbone=dict(
            type="mmpretrain.VisionTransformer",
            arch="deit-small",
            img_size=224,
            patch_size=16,
            drop_path_rate=0.1,
            out_indices=(2, 5, 8, 11),
            out_type="featmap",
        ),
    ),
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=384, patch_size=16, mode="taps"),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
