# ParC-ConvNeXt-gcc_t on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/parc_convnext_gcc_t_imagenet.py 8
# Published: nothing for this size
# Measured:  not trained here; model 26.65M parameters; backbone 26.20M, 4.44G MACs at 224x224
# The settings are those of parc_convnext_xt_imagenet.
_base_ = "./parc_convnext_xt_imagenet.py"
model = dict(backbone=dict(arch="gcc_t"), head=dict(in_channels=448))
