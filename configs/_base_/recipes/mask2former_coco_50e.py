# Mask2Former on COCO instances, large-scale jitter, 368,750 iterations of batch 8 x 2, which are 50
# epochs: mmdet's lsj-50e. Set `backbone` (strides 4 to 32) and `panoptic_head.in_channels`.
_base_ = [
    "../models/mask2former_head.py",
    "../datasets/coco_instance_lsj.py",
    "../schedules/mask2former_adamw.py",
    "../tasks/detection.py",
]
model = dict(
    type="Mask2Former",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=False,
        batch_augments=[
            dict(
                type="BatchFixedSizePad",
                size=(1024, 1024),
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
                pad_seg=False,
            )
        ],
    ),
    panoptic_head=dict(
        _base_.mask2former_head,
        type="Mask2FormerHead",
        num_things_classes=80,
        num_stuff_classes=0,
        loss_cls=dict(_base_.mask2former_loss_cls, class_weight=[1.0] * 80 + [0.1]),
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead",
        num_things_classes=80,
        num_stuff_classes=0,
        loss_panoptic=None,
        init_cfg=None,
    ),
    train_cfg=_base_.mask2former_train_cfg,
    test_cfg=dict(
        panoptic_on=False,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(_base_.train_pipeline[3], crop_type="absolute"),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    *_base_.train_pipeline[5:],
]
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True), dataset=dict(pipeline=train_pipeline)
)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=368750, val_interval=6250)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(  # after 327,778 and 355,092 iterations
        type="mmvitconv.MultiStepLR",
        by_epoch=False,
        shares=[327778 / 368750, 355092 / 368750],
        gamma=0.1,
    )
]
optim_wrapper = _base_.mask2former_optim_wrapper
auto_scale_lr = dict(enable=False, base_batch_size=8 * 2)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=6250), logger=dict(log_metric_by_epoch=False)
)
log_processor = dict(by_epoch=False)
