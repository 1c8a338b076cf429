# ImageNet-1k with one crop size per batch, 160 to 320, and no other augmentation than flips; tested
# at 256. Everything by OpenCV, bilinear.
# A rank has 327, 227, 128, 128 or 128 images per batch at 160, 192, 256, 288 or 320: about as many
# pixels as 128 images of 256, but never fewer images. 8 GPUs need 854 batches for an epoch.
_base_ = "./imagenet_224.py"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="mmvitconv.MultiScaleRandomResizedCrop",
        crop_ratio_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        interpolation="bilinear",
    ),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=288, edge="short", interpolation="bilinear"),
    dict(type="CenterCrop", crop_size=256),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=128,
    batch_sampler=dict(
        type="mmvitconv.MultiScaleBatchSampler",
        crop_sizes=(160, 192, 256, 288, 320),
        base_size=256,
    ),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
