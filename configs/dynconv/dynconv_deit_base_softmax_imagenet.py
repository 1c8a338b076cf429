# DeiT-base with mean pooling on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_deit_base_softmax_imagenet.py 8
# Published: nothing in this form; with a class token it is DeiT-base, whose weights have top-1 81.8
#            (README of github.com/facebookresearch/deit)
# Measured:  not trained here; model 86.57M parameters; backbone 85.80M, 17.47G MACs at 224x224
# DeiT's recipe but for its repeated augmentation. No average of weights: the published figures are
# without.
_base_ = "./dynconv_deit_tiny_softmax_imagenet.py"
model = dict(backbone=dict(arch="base"), head=dict(in_channels=768))
