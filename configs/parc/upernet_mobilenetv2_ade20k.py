# UperNet with MobileNetV2, ParC's baseline, on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_mobilenetv2_ade20k.py 8
# Published: mIoU 32.80 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 37.12M parameters; backbone 2.22M, 1.56G MACs at 512x512
# The recipe is that of upernet_parc_mobilenetv2_ade20k.
# Starts from: random weights; those of mobilenetv2_imagenet are better: --weights FILE
_base_ = "./upernet_parc_mobilenetv2_ade20k.py"
model = dict(backbone=dict(_delete_=True, type="mmpretrain.MobileNetV2", out_indices=(1, 2, 4, 7)))
