# UperNet with ParC-ResNet50 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_resnet50_ade20k.py 8
# Published: mIoU 43.85 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 64.68M parameters; backbone 21.69M, 22.70G MACs at 512x512
# The recipe is that of earlier repositories of Fast-ParC's first author; the factors of its
# stage-wise decay of 0.9 are those of mmseg's constructor for ConvNeXt-T. Norms in the stages are
# decayed too, as MMEngine's factors by name leave no exemption.
# Not stated: BatchNorm (statistics kept, as in its detectors); nothing is frozen.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/upernet_ade20k_160k_slide.py"
model = dict(
    backbone=dict(type="mmvitconv.ParCResNet", arch="50", norm_eval=True),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "backbone.conv1.": dict(lr_mult=0.9**7),
            "backbone.bn1.": dict(lr_mult=0.9**7),
            **{f"backbone.layer{i + 1}.": dict(lr_mult=0.9 ** (6 - i)) for i in range(4)},
        }
    ),
)
