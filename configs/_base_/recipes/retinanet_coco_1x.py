# RetinaNet with FPN on COCO, 1x. Set `backbone` (strides 8 to 32) and `neck.in_channels`.
_base_ = [
    "../models/retinanet_fpn.py",
    "../datasets/coco_detection.py",
    "../schedules/coco_1x.py",
    "../tasks/detection.py",
]
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
