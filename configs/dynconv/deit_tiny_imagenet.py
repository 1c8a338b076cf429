# DeiT-tiny with its class token on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/deit_tiny_imagenet.py 8
# Published: top-1 72.2 at 224 (README of github.com/facebookresearch/deit)
# Measured:  not trained here; model 5.72M parameters; backbone 5.52M, 1.25G MACs at 224x224
# DeiT's recipe but for its repeated augmentation. No average of weights: the published figures are
# without.
_base_ = "./dynconv_deit_tiny_softmax_imagenet.py"
model = dict(
    backbone=dict(with_cls_token=True, out_type="cls_token"),
    neck=None,  # the class token is a vector already
)
