# SSDLite with ParC-Net-S on COCO: 200 epochs at 320x320, batch 4 x 32.
#
# Command:   bash tools/dist_train.sh configs/parc/ssdlite_parcnet_s_coco.py 4
# Published: box AP 28.8 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 5.20M parameters; backbone 4.29M, 2.59G MACs at 320x320
# The authors train with mixed precision: add --amp to the command. They keep the best 200 boxes of
# each class; here it is the best 1000 of all together, as mmdet counts.
# What is scored and kept are averaged weights (EMA, 5e-4); BatchNorm counts over all GPUs.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/datasets/coco_detection.py", "../_base_/tasks/detection.py"]
custom_imports = dict(imports=["mmvitconv.models.heads.ssdlite"], allow_failed_imports=False)
model = dict(
    type="SingleStageDetector",
    data_preprocessor=dict(  # BGR / 255
        type="DetDataPreprocessor",
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="mmvitconv.ParCNet",
        arch="s",
        out_indices=(3, 4),
        init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://parcnet_s"),
    ),
    neck=dict(
        type="mmvitconv.SSDLiteNeck",
        in_channels=[128, 160],
        extra_channels=[256, 128, 128],
        pooled_channels=64,
    ),
    bbox_head=dict(
        type="mmvitconv.SSDLiteHead",
        num_classes=80,
        in_channels=[128, 160, 256, 128, 128, 64],
        projected_channels=[512, 256],
        anchor_generator=dict(
            type="mmvitconv.SSDLiteAnchorGenerator",
            strides=[16, 32, 64, 128, 256, 256],
            ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2]],
            scale_range=(0.1, 1.05),
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.0,
            ignore_iof_thr=-1,
            gt_max_assign_all=False,
        ),
        sampler=dict(type="PseudoSampler"),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.01,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=1000,
    ),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    # An overlap of 0 and the whole image are drawn besides.
    dict(type="MinIoURandomCrop", min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Resize", scale=(320, 320), keep_ratio=False),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(320, 320), keep_ratio=False),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=32,
    batch_sampler=None,  # all images are square
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=200, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="mmvitconv.WarmupLR", start_factor=9e-5 / 9e-4, iterations=500, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True),
]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=9e-4, weight_decay=0.02))
auto_scale_lr = dict(enable=False, base_batch_size=4 * 32)
sync_bn = "torch"
env_cfg = dict(cudnn_benchmark=True)
custom_hooks = [dict(type="EMAHook", momentum=5e-4, update_buffers=True)]
