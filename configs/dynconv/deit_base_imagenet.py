# DeiT-base with its class token on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/deit_base_imagenet.py 8
# Published: top-1 81.8 at 224 (README of github.com/facebookresearch/deit)
#            top-1 81.992 (timm's results file, commit 0173a139)
# Measured:  not trained here; model 86.57M parameters; backbone 85.80M, 17.56G MACs at 224x224
# DeiT's recipe but for its repeated augmentation. No average of weights: the published figures are
# without.
_base_ = "./deit_tiny_imagenet.py"
model = dict(backbone=dict(arch="base"), head=dict(in_channels=768))
