# ParC-MobileNetV2 on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/parc_mobilenetv2_imagenet.py 8
# Published: top-1 71.1 at 224 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 3.53M parameters; backbone 2.25M, 0.30G MACs at 224x224
# The authors give no more than "ConvNeXt's recipe" for this backbone; the settings are those of
# parc_convnext_xt_imagenet. The dropout is MobileNetV2's.
_base_ = "./parc_convnext_xt_imagenet.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmvitconv.ParCMobileNetV2",
        arch="1.0",
        out_indices=(7,),
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type="mmvitconv.GlobalPooling", dropout_rate=0.2),
    head=dict(in_channels=1280, init_cfg=dict(type="Normal", std=0.01)),
)
