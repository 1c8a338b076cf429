# FCViT-s12 on ImageNet-1k: 310 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fcvit_s12_imagenet.py 8
# Published: top-1 80.9 at 224 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 14.70M parameters; backbone 14.19M, 2.65G MACs at 224x224
# The authors train with mixed precision: add --amp to the command.
_base_ = "./fcvit_tiny_imagenet.py"
model = dict(backbone=dict(arch="s12"), head=dict(in_channels=512))
