# Swin's 300 epochs, AdamW 1e-3 for a batch of 1024: 20 epochs of warm-up from 1e-6, then a cosine
# to 1e-5, both one step per iteration.
_base_ = "./imagenet_300e.py"
train_cfg = dict(max_epochs=300)
param_scheduler = [
    dict(_base_.param_scheduler[0], span=(0, 20 / 300)),
    dict(_base_.param_scheduler[1], eta_min=1e-5, span=(20 / 300, 1), convert_to_iter_based=True),
]
