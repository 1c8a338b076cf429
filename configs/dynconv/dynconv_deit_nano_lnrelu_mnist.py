# A small ViT with LN+ReLU attention on 4,000 MNIST digits, from scratch: 15 epochs.
#
# Command:   python tools/train.py configs/dynconv/dynconv_deit_nano_lnrelu_mnist.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  top-1 86.0 on 1,000 held-out digits (epoch 15 of 15), 5 minutes on one CPU core
# Data:      python tools/dataset_converters/mnist.py
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/mnist.py",
    "../_base_/schedules/mnist_5e.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    data_preprocessor=dict(num_classes=10, mean=[33.0] * 3, std=[79.0] * 3),
    backbone=dict(
        type="mmvitconv.DynConvViT",
        arch=dict(embed_dims=96, depth=4, num_heads=3),
        out_indices=(3,),
        mixer="ln_relu",
        img_size=64,
        patch_size=8,
    ),
    head=dict(
        in_channels=96, num_classes=10, loss=dict(label_smooth_val=0.1, num_classes=10), topk=(1,)
    ),
    train_cfg=None,  # no mixing of images
)
# A plain Transformer starts slowly: three times the epochs and the rate of the other families.
train_cfg = dict(max_epochs=15)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, T_max=15, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=5.0))
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
