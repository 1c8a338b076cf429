# 40k iterations, AdamW 2e-4 for 8 GPUs x 4 images, polynomial decay: the usual Semantic FPN
# schedule.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=40000, val_interval=4000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False),  # to train_cfg.max_iters
]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-4, weight_decay=1e-4))
auto_scale_lr = dict(enable=False, base_batch_size=8 * 4)
