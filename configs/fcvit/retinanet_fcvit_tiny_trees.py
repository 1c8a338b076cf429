# RetinaNet with FCViT-tiny on trees in aerial images, from scratch, narrow.
#
# Command:   python tools/train.py configs/fcvit/retinanet_fcvit_tiny_trees.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  not trained here; model 5.50M parameters; backbone 4.46M, 2.90G MACs at 400x400
# Data:      python tools/dataset_converters/trees.py
_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/trees_detection.py",
    "../_base_/schedules/nuclei_20e.py",
    "../_base_/tasks/detection.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.FCViT", arch="tiny", out_indices=(1, 2, 3), layer_scale_init_value=0.1
    ),
    neck=dict(in_channels=[64, 160, 320], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96, stacked_convs=2, num_classes=1),
)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(400, 400), keep_ratio=True),  # the tiles' own size
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4))
randomness = dict(seed=0)
