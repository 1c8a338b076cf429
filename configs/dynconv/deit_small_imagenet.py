# DeiT-small with its class token on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/deit_small_imagenet.py 8
# Published: top-1 79.9 at 224 (README of github.com/facebookresearch/deit)
# Measured:  not trained here; model 22.05M parameters; backbone 21.67M, 4.60G MACs at 224x224
# DeiT's recipe but for its repeated augmentation. No average of weights: the published figures are
# without.
_base_ = "./deit_tiny_imagenet.py"
model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
