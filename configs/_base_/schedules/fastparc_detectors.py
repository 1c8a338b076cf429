# The optimizers of the detection recipes of Fast-ParC's first author. Give one to `optim_wrapper`.
layer_decay = dict(
    optimizer=dict(lr=2e-4 * (8 * 2) / 16),
    constructor="mmvitconv.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(  # of ConvNeXt's six layers; no decay of norms, biases and layer scales
        layer_decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
no_flat_decay = dict(
    optimizer=dict(lr=2e-4 * (8 * 2) / 16),
    # nothing of one dimension is decayed
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
