# A small ViT with LN+ReLU attention on 4,000 MNIST digits, from scratch.
#
# Command:   python tools/train.py configs/dynconv/dynconv_deit_nano_lnrelu_mnist.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  @@
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
        arch=dict(embed_dims=96, depth=6, num_heads=3),
        out_indices=(5,),
        mixer="ln_relu",
        img_size=64,
        patch_size=8,
    ),
    head=dict(
        in_channels=96, num_classes=10, loss=dict(label_smooth_val=0.1, num_classes=10), topk=(1,)
    ),
    train_cfg=None,  # no mixing of images
)
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
