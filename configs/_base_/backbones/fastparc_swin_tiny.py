# Swin-tiny with ParC for attention, and what Swin's recipes do not decay.
_base_ = "../schedules/dynconv_no_decay.py"
fastparc_swin_tiny = dict(
    type="mmvitconv.WithParC",
    stages=(0, 1, 2, 3),
    fraction=1.0,  # all attention in windows
    backbone=dict(
        type="mmpretrain.SwinTransformer",
        arch="tiny",
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
    ),
)
