# Cityscapes' 19 classes in labelTrainIds, 512x1024 crops, 4 GPUs x 2 images unless the leaf says
# otherwise.
_base_ = "./ade20k.py"
dataset_type = "CityscapesDataset"
data_root = "data/cityscapes"
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type="LoadAnnotations"),
    dict(_base_.train_pipeline[2], scale=(2048, 1024)),
    dict(_base_.train_pipeline[3], crop_size=(512, 1024)),
    *_base_.train_pipeline[4:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=(2048, 1024)),
    dict(type="LoadAnnotations"),  # the ground truth keeps its size
    _base_.test_pipeline[3],
]
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
