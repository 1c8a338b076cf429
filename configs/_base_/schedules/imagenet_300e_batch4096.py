# ConvNeXt's (arXiv:2201.03545): 300 epochs, AdamW 4e-3 for a batch of 4096, 20 epochs of warm-up
# from about 0, then a cosine to 1e-6, one step per iteration; what is tested is the average of the
# weights. Biases and all one-dimensional parameters (norms, layer scales) are not decayed.
# Set `train_dataloader.batch_size` to 256.
_base_ = "./imagenet_300e.py"
train_cfg = dict(max_epochs=300)
param_scheduler = [
    # MMEngine cannot start from 0.
    dict(_base_.param_scheduler[0], start_factor=1e-6, span=(0, 20 / 300)),
    dict(_base_.param_scheduler[1], span=(20 / 300, 1), convert_to_iter_based=True),
]
optim_wrapper = dict(
    optimizer=dict(lr=4e-3 * (8 * 256 * 2) / 4096),
    accumulative_counts=2,
)
# One update of the average per step of the optimizer, that is, per two iterations.
custom_hooks = [dict(type="EMAHook", momentum=1e-4, interval=2)]
auto_scale_lr = dict(base_batch_size=8 * 256 * 2)
