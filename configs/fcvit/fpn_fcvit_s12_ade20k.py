# Semantic FPN with FCViT-S12 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fpn_fcvit_s12_ade20k.py 8
# Published: mIoU 43.3 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 18.46M parameters; backbone 14.19M, 13.81G MACs at 512x512
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = [
    "../_base_/models/semantic_fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_40k.py",
    "../_base_/tasks/segmentation.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.FCViT",
        arch="s12",
        layer_scale_init_value=1e-6,
        init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://fcvit_s12"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=4)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),  # the ground truth keeps its size
    dict(type="PackSegInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
