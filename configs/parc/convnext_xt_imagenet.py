# ConvNeXt-XT without ParC on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/convnext_xt_imagenet.py 8
# Published: top-1 77.5 at 224 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 7.44M parameters; backbone 7.05M, 1.14G MACs at 224x224
# The recipe is that of parc_convnext_xt_imagenet, whose baseline this is.
_base_ = "./parc_convnext_xt_imagenet.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpretrain.ConvNeXt",
        arch=dict(depths=[3, 3, 9, 3], channels=[48, 96, 192, 384]),
        drop_path_rate=0.1,
    )
)
