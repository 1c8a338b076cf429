# Mask R-CNN with FPN on COCO, 1x. Set `backbone` and `neck.in_channels`.
_base_ = [
    "../models/maskrcnn_fpn.py",
    "../datasets/coco_instance.py",
    "../schedules/coco_1x.py",
    "../tasks/detection.py",
]
