# COCO 2017 with boxes only and DETR's augmentation, images without objects included.
_base_ = "./coco_instance_ms.py"
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="LoadAnnotations", with_bbox=True),
    _base_.train_pipeline[2],
    dict(
        type="RandomChoice",
        transforms=[
            [_base_.resize],
            [  # what is cropped has any length
                dict(_base_.resize_and_crop[0], scales=[(4200, 400), (4200, 500), (4200, 600)]),
                _base_.resize_and_crop[1],
                _base_.resize,
            ],
        ],
    ),
    _base_.train_pipeline[4],
]
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="LoadAnnotations", with_bbox=True),
    *_base_.test_pipeline[3:],
]
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False))
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(metric="bbox")
test_evaluator = dict(metric="bbox")
