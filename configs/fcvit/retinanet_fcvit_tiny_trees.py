# RetinaNet with FCViT-tiny on trees in aerial images, from scratch, narrow.
#
# Command:   python tools/train.py configs/fcvit/retinanet_fcvit_tiny_trees.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  not trained here; model 5.50M parameters; backbone 4.46M, 2.90G MACs at 400x400
# Data:      python tools/dataset_converters/trees.py
_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/trees_detection.py",
    "../_base_/tasks/detection.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.FCViT", arch="tiny", out_indices=(1, 2, 3), layer_scale_init_value=0.1
    ),
    neck=dict(in_channels=[64, 160, 320], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96, stacked_convs=2, num_classes=1),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, T_max=12, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4))
auto_scale_lr = dict(enable=False, base_batch_size=1 * 2)
randomness = dict(seed=0)
