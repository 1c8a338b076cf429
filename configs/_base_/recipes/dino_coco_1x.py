# DINO on COCO, 12 epochs, batch 8 x 2: mmdet's dino-4scale. Set `backbone` (strides 8 to 32) and
# `neck.in_channels`.
_base_ = [
    "../models/dino.py",
    "../datasets/coco_detection_detr.py",
    "../schedules/coco_1x.py",
    "../tasks/detection.py",
]
param_scheduler = [
    dict(type="mmvitconv.MultiStepLR", by_epoch=True, shares=[11 / 12], gamma=0.1)
]  # no warm-up
optim_wrapper = dict(
    optimizer=dict(lr=1e-4 * (8 * 2) / 16, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor="mmvitconv.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(backbone_lr_mult=0.1),
)
