# Mask R-CNN with FPN on COCO, large-scale jitter, 100 epochs. The drops of the rate are those of
# mmdet's lsj-100e, optimizer and batch those of our 1x. Set `backbone` and `neck.in_channels`.
_base_ = [
    "../models/maskrcnn_fpn.py",
    "../datasets/coco_instance_lsj.py",
    "../schedules/coco_1x.py",
    "../tasks/detection.py",
]
train_cfg = dict(max_epochs=100, val_interval=5)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], shares=[22 / 25, 24 / 25]),  # after epochs 88 and 96
]
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, flat_decay_mult=0.0))
