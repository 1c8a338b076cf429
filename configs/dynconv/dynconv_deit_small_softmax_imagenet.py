# DeiT-small with mean pooling on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_deit_small_softmax_imagenet.py 8
# Published: nothing in this form; with a class token it is DeiT-small, whose weights have top-1
#            79.9 (README of github.com/facebookresearch/deit)
# Measured:  not trained here; model 22.05M parameters; backbone 21.66M, 4.57G MACs at 224x224
# DeiT's recipe but for its repeated augmentation. No average of weights: the published figures are
# without.
_base_ = "./dynconv_deit_tiny_softmax_imagenet.py"
model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
