# DeiT-small with ParC for attention on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/parc/fastparc_deit_small_imagenet.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 15.09M parameters; backbone 14.70M, 2.86G MACs at 224x224
# A ConvNet out of a ViT: circular convolutions of the patch tokens' map mix them. The recipe is
# DeiT's, as in dynconv_deit_small_softmax_imagenet.
_base_ = [
    "../dynconv/dynconv_deit_small_softmax_imagenet.py",
    "../_base_/backbones/fastparc_deit_small.py",
]
model = dict(
    backbone=dict(
        _base_.fastparc_deit_small,
        _delete_=True,
        backbone=dict(_base_.fastparc_deit_small.backbone, out_type="avg_featmap"),
    ),
    neck=None,  # the mean of the patch tokens
)
