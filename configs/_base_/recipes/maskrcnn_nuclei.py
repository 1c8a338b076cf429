# A narrow Mask R-CNN on nuclei, for first runs on a CPU. Set `backbone` and `neck.in_channels`.
_base_ = [
    "../models/maskrcnn_fpn_narrow.py",
    "../datasets/nuclei_instance.py",
    "../schedules/nuclei_20e.py",
    "../tasks/detection.py",
]
model = dict(data_preprocessor=dict(mean=[50.0] * 3, std=[60.0] * 3))  # dark images
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(192, 192), keep_ratio=True),  # the tiles' own size
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(save_best="coco/segm_mAP_50", interval=5)
)
randomness = dict(seed=0)
