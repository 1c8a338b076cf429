# ConvMixer-1536/20 on ImageNet-1k: 150 epochs, batch 10 x 64.
#
# Command:   bash tools/dist_train.sh configs/convmixer/convmixer_1536_20_imagenet.py 10
# Published: top-1 81.37 at 224 (README of github.com/locuslab/convmixer)
#            top-5 95.61 (metafile of mmpretrain's convmixer, mmpretrain 1.2.0)
#            top-1 81.362 (timm's results file, commit 0173a139)
# Measured:  not trained here; model 51.63M parameters; backbone 50.09M, 51.10G MACs at 224x224
# The authors train with mixed precision: add --amp to the command.
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/convmixer_150e.py",
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
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=233),  # 224 / 0.96
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# The authors average the statistics of BatchNorms over all processes after each epoch.
custom_hooks = [dict(type="SyncBuffersHook")]
