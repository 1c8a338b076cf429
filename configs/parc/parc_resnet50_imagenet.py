# ParC-ResNet50 on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/parc_resnet50_imagenet.py 8
# Published: top-1 79.6 at 224 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 23.74M parameters; backbone 21.69M, 3.94G MACs at 224x224
# The authors give no more than "ConvNeXt's recipe" for this backbone; the settings are those of
# parc_convnext_xt_imagenet.
_base_ = "./parc_convnext_xt_imagenet.py"
model = dict(
    backbone=dict(
        _delete_=True, type="mmvitconv.ParCResNet", arch="50", out_indices=(3,), drop_path_rate=0.1
    ),
    neck=dict(_delete_=True, type="GlobalAveragePooling"),
    head=dict(in_channels=2048, init_cfg=dict(type="Normal", std=0.01)),
)
