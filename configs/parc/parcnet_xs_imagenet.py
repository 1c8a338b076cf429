# ParC-Net-XS on ImageNet-1k: 300 epochs, crops of 160 to 320, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/parc/parcnet_xs_imagenet.py 8
# Published: nothing: the authors give the architecture and recipe of this size, but no result
# Measured:  not trained here; model 2.19M parameters; backbone 1.54M, 0.94G MACs at 256x256
# The authors train with mixed precision: add --amp to the command.
# What is scored and kept are averaged weights (EMA, 5e-4).
_base_ = "./parcnet_s_imagenet.py"
model = dict(backbone=dict(arch="xs"))
