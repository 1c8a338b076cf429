# Mask2Former's optimizer: AdamW 1e-4 for 8 GPUs x 2 images, a tenth of it in the backbone. As usual
# here, nothing of one dimension is decayed; nor are the queries.
mask2former_optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4 * (8 * 2) / 16, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    constructor="mmvitconv.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(
        backbone_lr_mult=0.1,
        norm_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(
            query_embed=dict(decay_mult=0.0),
            query_feat=dict(decay_mult=0.0),
            level_embed=dict(decay_mult=0.0),
        ),
    ),
)
