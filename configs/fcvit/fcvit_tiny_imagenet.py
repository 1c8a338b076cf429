# FCViT-tiny on ImageNet-1k: 310 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fcvit_tiny_imagenet.py 8
# Published: top-1 74.9 at 224 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 4.78M parameters; backbone 4.46M, 0.90G MACs at 224x224
# The authors train with mixed precision: add --amp to the command.
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    backbone=dict(type="mmvitconv.FCViT", arch="tiny", out_indices=(3,), drop_path_rate=0.1),
    head=dict(in_channels=320),
)
# The authors average the statistics of BatchNorms over all processes after each epoch.
custom_hooks = [dict(type="SyncBuffersHook")]
