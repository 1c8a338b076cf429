# UperNet with ResNet50, ParC's baseline, on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_resnet50_ade20k.py 8
# Published: mIoU 42.27 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 66.50M parameters; backbone 23.51M, 21.35G MACs at 512x512
# The recipe is that of upernet_parc_resnet50_ade20k.
# Starts from: random weights; those of resnet50_imagenet are better: --weights FILE
_base_ = ["./upernet_parc_resnet50_ade20k.py", "../_base_/backbones/resnet50.py"]
model = dict(backbone=dict(_base_.resnet50, _delete_=True))
