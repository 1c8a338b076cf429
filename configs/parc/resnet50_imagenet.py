# ResNet50 without ParC on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/resnet50_imagenet.py 8
# Published: top-1 79.1 at 224 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 25.56M parameters; backbone 23.51M, 4.09G MACs at 224x224
# The recipe is that of parc_resnet50_imagenet, whose baseline this is.
_base_ = "./parc_resnet50_imagenet.py"
model = dict(backbone=dict(_delete_=True, type="mmpretrain.ResNet", depth=50, drop_path_rate=0.1))
