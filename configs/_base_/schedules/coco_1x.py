# 12 epochs, AdamW 1e-4 for 8 GPUs x 2 images, the field's standard for modern backbones. The
# schedule follows `train_cfg.max_epochs`.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="mmvitconv.WarmupLR", start_factor=0.001, iterations=500, by_epoch=False),
    # after epochs 8 and 11
    dict(type="mmvitconv.MultiStepLR", by_epoch=True, shares=[2 / 3, 11 / 12], gamma=0.1),
]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=8 * 2)
