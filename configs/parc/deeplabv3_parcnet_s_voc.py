# DeepLabv3 with ParC-Net-S on PASCAL VOC 2012 and COCO: 50 epochs at 512x512, batch 4 x 8.
#
# Command:   bash tools/dist_train.sh configs/parc/deeplabv3_parcnet_s_voc.py 4
# Published: mIoU 79.7 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 5.82M parameters; backbone 4.29M, 8.24G MACs at 512x512
# Output stride 16; of COCO the images that show VOC's classes. "mmvitconv data voc_aug" and
# "mmvitconv data coco_voc" make the masks. The authors train with mixed precision (add --amp to the
# command) and bring the prediction back to the image's size by nearest neighbours; here scores are
# resized, as mmseg does it. What is scored and kept are averaged weights (EMA, 5e-4); BatchNorm
# counts over all GPUs.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/datasets/voc12_aug.py", "../_base_/tasks/segmentation.py"]
custom_imports = dict(imports=["mmvitconv.models.heads.aspp"], allow_failed_imports=False)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(  # BGR / 255
        type="SegDataPreProcessor",
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type="mmvitconv.ParCNet",
        arch="s",
        output_stride=16,
        out_indices=(4,),
        init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://parcnet_s"),
    ),
    decode_head=dict(
        type="mmvitconv.DeepLabV3Head",
        in_channels=160,
        in_index=0,
        channels=256,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=[(2048, 384), (2048, 768)], keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(512, 512), keep_ratio=False),
    dict(type="LoadAnnotations"),  # the ground truth keeps its size
    dict(type="PackSegInputs"),
]
coco = dict(
    type="PascalVOCDataset",
    data_root="data/coco",
    data_prefix=dict(img_path="train2017", seg_map_path="voc_masks/train2017"),
    ann_file="voc_masks/train2017.txt",
)
parts = [*_base_.train_dataloader.dataset.datasets, coco]
train_dataloader = dict(
    dataset=dict(datasets=[dict(part, pipeline=train_pipeline) for part in parts])
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=50, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="mmvitconv.WarmupLR", start_factor=9e-5 / 9e-4, iterations=500, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=9e-4, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))),
)
auto_scale_lr = dict(enable=False, base_batch_size=4 * 8)
default_hooks = dict(
    checkpoint=dict(by_epoch=True, interval=1), logger=dict(log_metric_by_epoch=True)
)
log_processor = dict(by_epoch=True)
sync_bn = "torch"
custom_hooks = [dict(type="EMAHook", momentum=5e-4, update_buffers=True)]
