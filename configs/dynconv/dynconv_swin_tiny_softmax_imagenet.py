# Swin-tiny on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_swin_tiny_softmax_imagenet.py 8
# Published: top-1 81.2 at 224 (README of github.com/microsoft/Swin-Transformer)
#            top-1 81.376 (timm's results file, commit 0173a139)
# Measured:  not trained here; model 28.29M parameters; backbone 27.52M, 4.49G MACs at 224x224
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224_bicubic.py",
    "../_base_/schedules/imagenet_300e_swin.py",
    "../_base_/schedules/dynconv_no_decay.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.DynConvSwin",
        arch="tiny",
        out_indices=(3,),
        drop_path_rate=0.2,
        mixer="swin",
    ),
    head=dict(in_channels=768, init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02)),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay, clip_grad=dict(max_norm=5.0))
