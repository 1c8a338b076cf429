# Mask2Former on ADE20K, 160k iterations, batch 8 x 2: mmseg's settings. Set `backbone` (strides 4
# to 32) and `decode_head.in_channels`.
_base_ = [
    "../models/segmentor.py",
    "../models/mask2former_head.py",
    "../datasets/ade20k.py",
    "../schedules/mask2former_adamw.py",
    "../tasks/segmentation.py",
]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    decode_head=dict(
        _base_.mask2former_head,
        type="Mask2FormerHead",
        num_classes=150,
        align_corners=False,
        loss_cls=dict(_base_.mask2former_loss_cls, class_weight=[1.0] * 150 + [0.1]),
        train_cfg=_base_.mask2former_train_cfg,
    ),
)
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(
        type="RandomChoiceResize",
        scales=[int(512 * tenths / 10) for tenths in range(5, 21)],
        resize_type="ResizeShortestEdge",
        max_size=2048,
    ),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=5000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False)]
optim_wrapper = _base_.mask2former_optim_wrapper
auto_scale_lr = dict(enable=False, base_batch_size=8 * 2)
default_hooks = dict(checkpoint=dict(interval=5000))
