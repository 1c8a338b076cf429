# MobileNetV2 without ParC on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/mobilenetv2_imagenet.py 8
# Published: top-1 70.2 at 224 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 3.50M parameters; backbone 2.22M, 0.30G MACs at 224x224
# The recipe is that of parc_mobilenetv2_imagenet, whose baseline this is, but without stochastic
# depth, which mmpretrain's MobileNetV2 lacks.
_base_ = "./parc_mobilenetv2_imagenet.py"
model = dict(backbone=dict(_delete_=True, type="mmpretrain.MobileNetV2"))
