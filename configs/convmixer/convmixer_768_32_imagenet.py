# ConvMixer-768/32 on ImageNet-1k: 300 epochs, batch 10 x 64.
#
# Command:   bash tools/dist_train.sh configs/convmixer/convmixer_768_32_imagenet.py 10
# Published: top-1 80.16, top-5 95.08 at 224 (metafile of mmpretrain's convmixer, mmpretrain 1.2.0)
# Measured:  not trained here; model 21.11M parameters; backbone 20.34M, 20.68G MACs at 224x224
# The released weights of this size, and so this arch, have ReLU instead of GELU.
# The authors train with mixed precision: add --amp to the command.
_base_ = "./convmixer_1536_20_imagenet.py"
model = dict(backbone=dict(arch="768_32"), head=dict(in_channels=768))
train_cfg = dict(max_epochs=300)
