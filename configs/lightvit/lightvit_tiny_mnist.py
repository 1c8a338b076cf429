# LightViT-tiny on 4,000 MNIST digits, from scratch.
#
# Command:   python tools/train.py configs/lightvit/lightvit_tiny_mnist.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  top-1 96.2 on 1,000 held-out digits (epoch 5 of 5), 6 minutes on one CPU core
# Data:      python tools/dataset_converters/mnist.py
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/mnist.py",
    "../_base_/schedules/mnist_5e.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    data_preprocessor=dict(num_classes=10, mean=[33.0] * 3, std=[79.0] * 3),
    backbone=dict(type="mmvitconv.LightViT", arch="tiny", out_indices=(2,), out_type="raw"),
    neck=dict(type="mmvitconv.LightViTPooling", in_channels=256, out_channels=256),
    head=dict(
        in_channels=256, num_classes=10, loss=dict(label_smooth_val=0.1, num_classes=10), topk=(1,)
    ),
    train_cfg=None,  # no mixing of images
)
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
