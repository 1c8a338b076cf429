# As imagenet_224, but with bicubic crops, timm's rand-m9-mstd0.5 (without "inc1": some operations
# become weaker with the level) and the usual test crop, 224 of 256.
_base_ = "./imagenet_224_bicubic.py"
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
    *_base_.train_pipeline[:3],
    dict(_base_.train_pipeline[3], policies=policies),
    *_base_.train_pipeline[4:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
