# DeiT-tiny with mean pooling on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_deit_tiny_softmax_imagenet.py 8
# Published: nothing in this form; with a class token it is DeiT-tiny, whose weights have top-1
#            72.2 (README of github.com/facebookresearch/deit)
# Measured:  not trained here; model 5.72M parameters; backbone 5.52M, 1.25G MACs at 224x224
# DeiT's recipe but for its repeated augmentation. No average of weights: the published figures are
# without.
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224_bicubic.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/schedules/dynconv_no_decay.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.DynConvViT",
        arch="tiny",
        out_indices=(11,),
        drop_path_rate=0.1,
        mixer="deit",
    ),
    head=dict(in_channels=192, init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02)),
)
train_cfg = dict(max_epochs=300)
param_scheduler = [
    dict(_base_.param_scheduler[0], span=(0, 5 / 300)),
    dict(_base_.param_scheduler[1], span=(5 / 300, 1), eta_min=1e-5),
]
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
