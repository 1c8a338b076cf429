# ConvMixer-1536/20 on ImageNet-1k: 150 epochs, batch 10 x 64.
#
# Command:   bash tools/dist_train.sh configs/convmixer/convmixer_1536_20_imagenet.py 10
# Published: top-1 81.37, top-5 95.61 at 224 (README of github.com/locuslab/convmixer)
#            timm's evaluation of the same weights: top-1 81.382
# Measured:  not trained here; model 51.63M parameters; backbone 50.09M, 51.10G MACs at 224x224
# The authors train with mixed precision: add --amp to the command.
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.ConvMixer",
        arch="1536_20",
        out_indices=(-1,),
        pad_to_patch=False,  # pixels behind the last whole patch are dropped
    ),
    head=dict(in_channels=1536, init_cfg=None),  # PyTorch's initialisation everywhere
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.5), dict(type="CutMix", alpha=0.5)]),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(  # 224 / 0.96
        type="ResizeEdge", scale=233, edge="short", backend="pillow", interpolation="bicubic"
    ),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=150)
# The rate of each iteration is piecewise linear: 0 at the start, its peak after 40 % of the epochs,
# a twentieth of that after 80 %, 0 at the end.
param_scheduler = [
    dict(  # MMEngine cannot start from 0
        type="LinearLR",
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=60,
        convert_to_iter_based=True,
    ),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=1 / 20,
        by_epoch=True,
        begin=60,
        end=120,
        convert_to_iter_based=True,
    ),
    dict(
        type="PolyLR",
        power=1.0,
        by_epoch=True,
        begin=120,
        end=150,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.01 * (10 * 64) / 640, eps=1e-3, weight_decay=2e-5),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(base_batch_size=10 * 64)
