# 300 epochs, AdamW 1e-3 for a batch of 1024: 20 epochs of warm-up from 1e-7, one step per epoch,
# then a cosine to 1e-6, one step per iteration.
_base_ = "./imagenet_300e.py"
train_cfg = dict(max_epochs=300)
param_scheduler = [
    # MMEngine reaches the full rate one epoch before the end of the span.
    dict(type="mmvitconv.LinearLR", start_factor=1e-7 / 1e-3, by_epoch=True, span=(0, 21 / 300)),
    dict(_base_.param_scheduler[1], span=(20 / 300, 1), convert_to_iter_based=True),
]
