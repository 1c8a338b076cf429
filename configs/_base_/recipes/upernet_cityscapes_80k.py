# UperNet on Cityscapes, 80k iterations, batch 4 x 2, as mmseg trains it, with the AdamW of our
# ADE20K recipe. Set `backbone` and `in_channels` of both heads.
_base_ = [
    "../models/upernet.py",
    "../datasets/cityscapes.py",
    "../schedules/ade20k_160k.py",
    "../tasks/segmentation.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
)
train_cfg = dict(max_iters=80000, val_interval=8000)
optim_wrapper = dict(optimizer=dict(lr=6e-5 * (4 * 2) / 8))
auto_scale_lr = dict(base_batch_size=4 * 2)
