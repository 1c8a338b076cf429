# COCO 2017 with boxes only.
_base_ = "./coco_instance.py"
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="LoadAnnotations", with_bbox=True),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="LoadAnnotations", with_bbox=True),
    *_base_.test_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(metric="bbox")
test_evaluator = dict(metric="bbox")
