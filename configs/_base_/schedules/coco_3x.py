# 36 epochs, otherwise as 1x.
_base_ = "./coco_1x.py"
train_cfg = dict(max_epochs=36)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], shares=[3 / 4, 11 / 12]),  # after epochs 27 and 33
]
