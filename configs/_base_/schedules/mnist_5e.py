# 5 epochs, AdamW 1e-3 for one process x 64 digits, cosine: minutes on two CPU cores.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=5, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="mmvitconv.WarmupLR", start_factor=0.01, iterations=50, share=0.2, by_epoch=False),
    # to train_cfg.max_epochs
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=1 * 64)
