# UperNet with ParC-ConvNeXt-XT on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_convnext_xt_ade20k.py 8
# Published: mIoU 42.32 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 36.28M parameters; backbone 7.03M, 5.96G MACs at 512x512
# The recipe is that of earlier repositories of Fast-ParC's first author; the factors of its
# stage-wise decay of 0.9 are those of mmseg's constructor for ConvNeXt-T. Norms in the stages are
# decayed too, as MMEngine's factors by name leave no exemption.
# Not stated: stochastic depth (0.1 as in classification).
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/upernet_ade20k_160k_slide.py"
model = dict(
    backbone=dict(
        type="mmvitconv.ParCConvNeXt", arch="xt", drop_path_rate=0.1, layer_scale_init_value=1.0
    ),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "backbone.downsample_layers.": dict(lr_mult=0.9**7),
            **{f"backbone.stages.{i}.": dict(lr_mult=0.9 ** (6 - i)) for i in range(4)},
        }
    ),
)
