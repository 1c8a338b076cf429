# ParC-Net-S on ImageNet-1k: 300 epochs, crops of 160 to 320, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/parc/parcnet_s_imagenet.py 8
# Published: top-1 78.63 at 256 (model_info.txt of github.com/hkzhang91/ParC-Net)
#            top-1 78.6 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 5.04M parameters; backbone 4.40M, 1.66G MACs at 256x256
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# The authors train with mixed precision: add --amp to the command.
# What is scored and kept are averaged weights (EMA, 5e-4).
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_256_multiscale.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=False),
    backbone=dict(type="mmvitconv.ParCNet", arch="s", out_indices=(5,)),
    neck=dict(type="mmvitconv.GlobalPooling", dropout_rate=0.2),
    head=dict(in_channels=640),
    train_cfg=None,  # no mixing
)
train_cfg = dict(max_epochs=300)
param_scheduler = [
    # MMEngine reaches the full rate one iteration before the end.
    dict(type="mmvitconv.WarmupLR", start_factor=0.1, iterations=3001, by_epoch=False),
    # One step per epoch. On 8 GPUs the warm-up ends in the fourth.
    dict(type="mmvitconv.CosineAnnealingLR", eta_min_ratio=0.1, by_epoch=True, span=(4 / 300, 1)),
]
optim_wrapper = dict(
    optimizer=dict(lr=4e-3 * (8 * 128) / 1024, weight_decay=0.025),
    paramwise_cfg=None,  # norms, biases and position embeddings are decayed too
)
custom_hooks = [  # the norms' statistics differ between crop sizes, so they are averaged too
    dict(type="EMAHook", momentum=5e-4, update_buffers=True)
]
