# ConvMixer-512/16 on ImageNet-1k: 150 epochs, batch 10 x 64.
#
# Command:   bash tools/dist_train.sh configs/convmixer/convmixer_512_16_imagenet.py 10
# Published: nothing for this size
# Measured:  not trained here; model 5.36M parameters; backbone 4.84M, 4.91G MACs at 224x224
# The recipe is that of 1536/20. The authors train with mixed precision: add --amp to the command.
_base_ = "./convmixer_1536_20_imagenet.py"
model = dict(backbone=dict(arch="512_16"), head=dict(in_channels=512))
