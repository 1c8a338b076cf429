# ConvMixer-1024/20 with patches of 14 on ImageNet-1k: 150 epochs, batch 10 x 64.
#
# Command:   bash tools/dist_train.sh configs/convmixer/convmixer_1024_20_imagenet.py 10
# Published: top-1 76.94, top-5 93.36 at 224 (metafile of mmpretrain's convmixer, mmpretrain 1.2.0)
# Measured:  not trained here; model 24.38M parameters; backbone 23.36M, 5.95G MACs at 224x224
# The number of epochs is ours: the authors do not publish that of this size.
# The authors train with mixed precision: add --amp to the command.
_base_ = "./convmixer_1536_20_imagenet.py"
model = dict(backbone=dict(arch="1024_20"), head=dict(in_channels=1024))
