# What LightViT's recipes do not decay beside norms. Give it to `optim_wrapper.paramwise_cfg`.
no_decay = dict(
    custom_keys={
        "patch_embed.global_token": dict(decay_mult=0.0),
        "attn.relative_position_bias_table": dict(decay_mult=0.0),
    }
)
