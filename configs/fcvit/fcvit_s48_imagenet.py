# FCViT-s48 on ImageNet-1k: 310 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fcvit_s48_imagenet.py 8
# Published: top-1 83.6 at 224 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 51.48M parameters; backbone 50.96M, 9.88G MACs at 224x224
# The authors train with mixed precision: add --amp to the command.
_base_ = "./fcvit_s24_imagenet.py"
model = dict(backbone=dict(arch="s48", drop_path_rate=0.2))
