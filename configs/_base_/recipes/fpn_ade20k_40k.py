# Semantic FPN on ADE20K, 40k iterations, batch 8 x 4, tested at multiples of 32. Set `backbone` and
# `neck.in_channels`.
_base_ = [
    "../models/semantic_fpn.py",
    "../datasets/ade20k.py",
    "../schedules/ade20k_40k.py",
    "../tasks/segmentation.py",
]
train_dataloader = dict(batch_size=4)
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="ResizeToMultiple", size_divisor=32),
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
