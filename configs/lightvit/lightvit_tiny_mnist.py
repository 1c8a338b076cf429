# LightViT-tiny on 4,000 MNIST digits, from scratch.
#
# Command:   python tools/train.py configs/lightvit/lightvit_tiny_mnist.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  top-1 96.2 on 1,000 held-out digits (epoch 5 of 5), 6 minutes on one CPU core
# Data:      python tools/dataset_converters/mnist.py
_base_ = "../_base_/recipes/classifier_mnist.py"
model = dict(
    backbone=dict(type="mmvitconv.LightViT", arch="tiny", out_indices=(2,), out_type="raw"),
    neck=dict(type="mmvitconv.LightViTPooling", in_channels=256, out_channels=256),
    head=dict(in_channels=256),
)
