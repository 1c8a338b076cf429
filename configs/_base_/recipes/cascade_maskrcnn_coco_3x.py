# Cascade Mask R-CNN with FPN on COCO, images of several sizes, 3x. Set `backbone` and
# `neck.in_channels`.
_base_ = [
    "../models/cascade_maskrcnn_fpn.py",
    "../datasets/coco_instance_ms.py",
    "../schedules/coco_3x.py",
    "../tasks/detection.py",
]
