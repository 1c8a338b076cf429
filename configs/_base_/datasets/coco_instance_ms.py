# COCO 2017 with boxes and masks at several scales, DETR's augmentation: short side 480 to 800, with
# probability 1/2 after a crop. The long side is at most 1333.
_base_ = "./coco_instance.py"
resize = dict(
    type="RandomChoiceResize",
    scales=[(1333, short) for short in range(480, 801, 32)],
    keep_ratio=True,
)
resize_and_crop = [
    dict(
        type="RandomChoiceResize",
        scales=[(1333, short) for short in (400, 500, 600)],
        keep_ratio=True,
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute_range",
        crop_size=(384, 600),
        allow_negative_crop=True,
    ),
]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[resize], [*resize_and_crop, resize]]),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
