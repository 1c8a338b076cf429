# 300 epochs and 10 at the final rate, AdamW 1e-3 for a batch of 1024, cosine, 5 epochs of warm-up.
# The schedule follows `train_cfg.max_epochs`. Biases and all one-dimensional parameters (norms,
# layer scales) are not decayed.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=310, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(
        type="mmvitconv.LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        span=(0, 5 / 310),
        convert_to_iter_based=True,
    ),
    dict(
        type="mmvitconv.CosineAnnealingLR", eta_min=1e-6, by_epoch=True, span=(5 / 310, 300 / 310)
    ),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3 * (8 * 128) / 1024, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=8 * 128)
