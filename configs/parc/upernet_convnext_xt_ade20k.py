# UperNet with ConvNeXt-XT, ParC's baseline, on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_convnext_xt_ade20k.py 8
# Published: mIoU 42.17 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 36.30M parameters; backbone 7.05M, 5.97G MACs at 512x512
# The recipe is that of upernet_parc_convnext_xt_ade20k.
# Starts from: random weights; those of convnext_xt_imagenet are better: --weights FILE
_base_ = "./upernet_parc_convnext_xt_ade20k.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpretrain.ConvNeXt",
        arch=dict(depths=[3, 3, 9, 3], channels=[48, 96, 192, 384]),
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    )
)
