# UperNet with ParC-MobileNetV2 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_mobilenetv2_ade20k.py 8
# Published: mIoU 35.13 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 37.15M parameters; backbone 2.25M, 1.60G MACs at 512x512
# The recipe is that of earlier repositories of Fast-ParC's first author; the factors of its
# stage-wise decay of 0.9 are those of mmseg's constructor for ConvNeXt-T. Norms in the stages are
# decayed too, as MMEngine's factors by name leave no exemption.
# A stage ends at each of the four maps. Not stated: BatchNorm (statistics kept).
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/upernet_ade20k_160k_slide.py"
model = dict(
    backbone=dict(
        type="mmvitconv.ParCMobileNetV2", arch="1.0", out_indices=(1, 2, 4, 7), norm_eval=True
    ),
    decode_head=dict(in_channels=[24, 32, 96, 1280]),
    auxiliary_head=dict(in_channels=96),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "backbone.features.0.": dict(lr_mult=0.9**7),
            **{
                f"backbone.features.{block}.": dict(lr_mult=0.9 ** (6 - i))
                for i, (first, last) in enumerate([(1, 3), (4, 6), (7, 13), (14, 18)])
                for block in range(first, last + 1)
            },
        }
    ),
)
