# As imagenet_224, but with bicubic crops, timm's rand-m9-mstd0.5 (without "inc1": some operations
# become weaker with the level) and the usual test crop, 224 of 256.
_base_ = "./imagenet_224.py"
bgr_mean = [103.53, 116.28, 123.675]
bgr_std = [57.375, 57.12, 58.395]
policies = [
    dict(type="AutoContrast"),
    dict(type="Equalize"),
    dict(type="Invert"),
    dict(type="Rotate", magnitude_range=(0, 30)),
    # timm rounds the number of bits down, mmpretrain up.
    dict(type="Posterize", magnitude_range=(-1, 3)),
    dict(type="Solarize", magnitude_range=(0, 256)),
    dict(type="SolarizeAdd", magnitude_range=(0, 110)),
    *(  # a factor of 0.1 to 1.9, of which 1 is subtracted
        dict(type=kind, magnitude_range=(-0.9, 0.9), random_negative_prob=0.0)
        for kind in ("ColorTransform", "Contrast", "Brightness", "Sharpness")
    ),
    *(
        dict(type=kind, magnitude_range=(0, largest), direction=direction)
        for kind, largest in (("Shear", 0.3), ("Translate", 0.45))
        for direction in ("horizontal", "vertical")
    ),
]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(
        type="RandAugment",
        policies=policies,
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
    dict(  # 224 / 0.875
        type="ResizeEdge", scale=256, edge="short", backend="pillow", interpolation="bicubic"
    ),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
