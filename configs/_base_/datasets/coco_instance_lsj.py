# COCO 2017 with boxes and masks, large-scale jitter: 0.1 to 2 times 1024x1024, of which a crop of
# that size is taken, as mmdet's lsj-100e has it.
_base_ = "./coco_instance.py"
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute_range",
        crop_size=(1024, 1024),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
