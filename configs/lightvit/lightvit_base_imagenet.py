# LightViT-base on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/lightvit/lightvit_base_imagenet.py 8
# Published: top-1 82.1, top-5 95.9 at 224 (paper and README of github.com/hunto/LightViT)
# Measured:  not trained here; model 35.20M parameters; backbone 33.26M, 4.00G MACs at 224x224
# The authors train this size with mixed precision: add --amp to the command.
_base_ = "./lightvit_tiny_imagenet.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.3), neck=dict(in_channels=512))
