# DeiT-small with ParC for attention.
fastparc_deit_small = dict(
    type="mmvitconv.WithParC",
    fraction=1.0,  # all attention of all blocks
    backbone=dict(
        type="mmpretrain.VisionTransformer",
        arch="deit-small",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type="featmap",
    ),
)
