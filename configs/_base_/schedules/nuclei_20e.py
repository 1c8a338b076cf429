# 20 epochs, AdamW 1e-3 for one process x 2 tiles, cosine: minutes on two CPU cores.
_base_ = "./mnist_5e.py"
train_cfg = dict(max_epochs=20, val_interval=5)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=1 * 2)
