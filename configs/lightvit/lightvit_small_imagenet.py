# LightViT-small on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/lightvit/lightvit_small_imagenet.py 8
# Published: top-1 80.9, top-5 95.3 at 224 (paper and README of github.com/hunto/LightViT)
# Measured:  not trained here; model 19.20M parameters; backbone 17.42M, 1.79G MACs at 224x224
_base_ = "./lightvit_tiny_imagenet.py"
model = dict(backbone=dict(arch="small"), neck=dict(in_channels=384))
