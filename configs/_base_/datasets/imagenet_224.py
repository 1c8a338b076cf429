# ImageNet-1k at 224 with the augmentation of the timm recipe (rand-m9-mstd0.5-inc1, random erasing
# 0.25).
# Folders: data/imagenet/{train,val}/<synset>/*.JPEG. 8 GPUs x 128 images unless the leaf says
# otherwise.
bgr_mean = [103.53, 116.28, 123.675]
bgr_std = [57.375, 57.12, 58.395]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(  # timm's "random" interpolation
        type="RandomChoice",
        transforms=[
            [
                dict(
                    type="RandomResizedCrop",
                    scale=224,
                    crop_ratio_range=(0.08, 1.0),
                    aspect_ratio_range=(3 / 4, 4 / 3),
                    backend="pillow",
                    interpolation=interpolation,
                )
            ]
            for interpolation in ("bilinear", "bicubic")
        ],
    ),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic"),
    ),
    dict(
        type="RandomErasing",
        erase_prob=0.25,
        mode="rand",
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(  # 224 / 0.9
        type="ResizeEdge", scale=248, edge="short", backend="pillow", interpolation="bicubic"
    ),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageNet", data_root="data/imagenet", split="train", pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    train_dataloader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(train_dataloader["dataset"], split="val", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
