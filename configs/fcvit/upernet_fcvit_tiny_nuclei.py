# UperNet with FCViT-tiny on nuclei against background, from scratch, narrow.
#
# Command:   python tools/train.py configs/fcvit/upernet_fcvit_tiny_nuclei.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  mIoU 92.3 on the held-out tiles, 2 minutes on two CPU cores
# Data:      python tools/dataset_converters/nuclei.py
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/nuclei_semantic.py",
    "../_base_/schedules/nuclei_20e.py",
    "../_base_/tasks/segmentation.py",
]
model = dict(
    data_preprocessor=dict(mean=[50.0] * 3, std=[60.0] * 3, size=(192, 192)),  # dark images
    backbone=dict(type="mmvitconv.FCViT", arch="tiny", layer_scale_init_value=0.1),
    decode_head=dict(in_channels=[32, 64, 160, 320], channels=96, num_classes=2),
    auxiliary_head=dict(in_channels=160, channels=48, num_classes=2),
)
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=300, val_interval=100)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type="mmvitconv.PolyLR", eta_min=0.0, power=0.9, warmup=50, share=0.2, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
randomness = dict(seed=0)
