# 160k iterations, AdamW 6e-5 for 8 GPUs x 2 images, linear decay: the field's standard for UperNet.
# The schedule follows `train_cfg.max_iters`.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="mmvitconv.WarmupLR", start_factor=1e-6, iterations=1500, by_epoch=False),
    dict(type="mmvitconv.PolyLR", eta_min=0.0, power=1.0, warmup=1500, by_epoch=False),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=8 * 2)
