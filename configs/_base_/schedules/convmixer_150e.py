# ConvMixer on ImageNet: triangular learning rate, batch 10 x 64. It follows `train_cfg.max_epochs`.
_base_ = "./imagenet_300e.py"
train_cfg = dict(max_epochs=150)
# The rate of each iteration is piecewise linear: 0 at the start, its peak after 40 % of the epochs,
# a twentieth of that after 80 %, 0 at the end.
param_scheduler = [
    # MMEngine cannot start from 0.
    dict(_base_.param_scheduler[0], start_factor=1e-6, span=(0, 0.4)),
    dict(_base_.param_scheduler[0], start_factor=1.0, end_factor=1 / 20, span=(0.4, 0.8)),
    dict(_base_.param_scheduler[0], start_factor=1.0, end_factor=0.0, span=(0.8, 1)),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.01 * (10 * 64) / 640, eps=1e-3, weight_decay=2e-5),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(base_batch_size=10 * 64)
