# ConvMixer-256/8, CIFAR-10's with patches of 2, on ImageNet-1k: 150 epochs, batch 10 x 64.
#
# Command:   bash tools/dist_train.sh configs/convmixer/convmixer_256_8_imagenet.py 10
# Published: nothing: the authors have this size for CIFAR-10
# Measured:  not trained here; model 0.85M parameters; backbone 0.59M, 7.26G MACs at 224x224
# The recipe is that of 1536/20. The authors train with mixed precision: add --amp to the command.
_base_ = "./convmixer_1536_20_imagenet.py"
model = dict(backbone=dict(arch="256_8"), head=dict(in_channels=256))
