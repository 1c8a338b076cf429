# Boxes of trees in aerial images: mmvitconv data trees
_base_ = "./nuclei_instance.py"
data_source = "trees"
data_root = "data/trees/"
metainfo = dict(classes=("tree",))
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="LoadAnnotations", with_bbox=True),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="LoadAnnotations", with_bbox=True),
    _base_.test_pipeline[3],
]
train_dataloader = dict(
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json", metric="bbox")
test_evaluator = val_evaluator
