# A classifier of digits, for first runs on a CPU. Set `backbone` and `head.in_channels`.
_base_ = [
    "../models/classifier.py",
    "../datasets/mnist.py",
    "../schedules/mnist_5e.py",
    "../tasks/classification.py",
]
model = dict(
    data_preprocessor=dict(num_classes=10, mean=[33.0] * 3, std=[79.0] * 3),
    head=dict(num_classes=10, loss=dict(label_smooth_val=0.1, num_classes=10), topk=(1,)),
    train_cfg=None,  # no mixing of images
)
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
