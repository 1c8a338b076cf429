# ParC-ConvNeXt-tiny on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/parc_convnext_tiny_imagenet.py 8
# Published: nothing for this size
# Measured:  not trained here; model 28.54M parameters; backbone 27.77M, 4.45G MACs at 224x224
# The settings are those of parc_convnext_xt_imagenet.
_base_ = "./parc_convnext_xt_imagenet.py"
model = dict(backbone=dict(arch="tiny"), head=dict(in_channels=768))
