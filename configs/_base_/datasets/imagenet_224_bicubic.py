# As imagenet_224, but with bicubic crops only and the usual test crop, 224 of 256: ConvNeXt's.
_base_ = "./imagenet_224.py"
train_pipeline = [
    _base_.train_pipeline[0],
    _base_.train_pipeline[1]["transforms"][1][0],
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=256),  # 224 / 0.875
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
