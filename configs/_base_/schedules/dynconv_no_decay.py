# What the dynconv recipes do not decay: norms, biases, all else of one dimension, and these. Give
# it to `optim_wrapper.paramwise_cfg`.
no_decay = dict(
    norm_decay_mult=0.0,
    bias_decay_mult=0.0,
    flat_decay_mult=0.0,
    custom_keys={
        "backbone.cls_token": dict(decay_mult=0.0),
        "backbone.pos_embed": dict(decay_mult=0.0),
        "mixer.relative_position_bias_table": dict(decay_mult=0.0),
        "mixer.gamma": dict(decay_mult=0.0),
        "mixer.beta": dict(decay_mult=0.0),
        "mixer.static_key": dict(decay_mult=0.0),
        "mixer.static_value": dict(decay_mult=0.0),
        "mixer.static_kernel": dict(decay_mult=0.0),
    },
)
