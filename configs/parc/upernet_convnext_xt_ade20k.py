# UperNet with ConvNeXt-XT, ParC's baseline, on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_convnext_xt_ade20k.py 8
# Published: mIoU 42.17 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 36.30M parameters; backbone 7.05M, 5.97G MACs at 512x512
# The recipe is that of upernet_parc_convnext_xt_ade20k.
# Starts from: random weights; those of convnext_xt_imagenet are better: --weights FILE
_base_ = ["./upernet_parc_convnext_xt_ade20k.py", "../_base_/backbones/convnext_xt.py"]
model = dict(backbone=dict(_base_.convnext_xt, _delete_=True, drop_path_rate=0.4))
