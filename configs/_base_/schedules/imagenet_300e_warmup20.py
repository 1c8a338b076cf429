# 300 epochs, AdamW 1e-3 for a batch of 1024: 20 epochs of warm-up from 1e-7, one step per epoch,
# then a cosine to 1e-6, one step per iteration.
_base_ = "./imagenet_300e.py"
train_cfg = dict(max_epochs=300)
param_scheduler = [
    # MMEngine reaches the full rate at epoch `end - 1`.
    dict(type="LinearLR", start_factor=1e-7 / 1e-3, by_epoch=True, begin=0, end=21),
    dict(  # to train_cfg.max_epochs
        type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, convert_to_iter_based=True
    ),
]
