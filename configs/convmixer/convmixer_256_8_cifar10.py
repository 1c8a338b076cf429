# ConvMixer-256/8 on CIFAR-10, from scratch: 25 epochs, one GPU, batches of 512.
#
# Command:   python tools/train.py configs/convmixer/convmixer_256_8_cifar10.py
# Published: top-1 92.60 at 32 (training log of github.com/locuslab/convmixer-cifar10)
# Measured:  not trained here; model 0.59M parameters; backbone 0.59M, 0.15G MACs at 32x32
# mmpretrain downloads the images to data/cifar10 when they are not there.
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/schedules/convmixer_150e.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    data_preprocessor=dict(  # these images are RGB already
        num_classes=10,
        mean=[125.307, 122.961, 113.8575],
        std=[63.0105, 62.0925, 66.708],
        to_rgb=False,
    ),
    backbone=dict(type="mmvitconv.ConvMixer", arch="256_8", out_indices=(-1,), pad_to_patch=False),
    head=dict(
        _delete_=True,
        type="LinearClsHead",
        in_channels=256,
        num_classes=10,
        loss=dict(type="CrossEntropyLoss"),
        topk=(1,),
        init_cfg=None,  # PyTorch's
    ),
    train_cfg=None,  # no mixing of images
)
# The script's random crop takes the whole image in this recipe, so there is none here.
train_pipeline = [
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="NumpyToPIL"),
    dict(type="torchvision/RandAugment", num_ops=2, magnitude=12),
    dict(type="PILToNumpy"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="CenterCrop", crop_size=32),  # the whole image
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=512,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="CIFAR10", data_root="data/cifar10", split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    train_dataloader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(train_dataloader["dataset"], split="test", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=25)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.05 * (1 * 512) / 512, weight_decay=0.005),
)
auto_scale_lr = dict(base_batch_size=1 * 512)
