# UPerNet on ADE20K, 160k iterations. Set `backbone` and `in_channels` of both heads.
_base_ = [
    "../models/upernet.py",
    "../datasets/ade20k.py",
    "../schedules/ade20k_160k.py",
    "../tasks/segmentation.py",
]
