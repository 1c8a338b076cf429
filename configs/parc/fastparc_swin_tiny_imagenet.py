# Swin-tiny with ParC for attention on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/parc/fastparc_swin_tiny_imagenet.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 19.75M parameters; backbone 18.99M, 3.01G MACs at 224x224
# A ConvNet out of a ViT: circular convolutions of the whole map instead of attention in windows.
# The recipe is Swin's, as in dynconv_swin_tiny_softmax_imagenet.
_base_ = "../dynconv/dynconv_swin_tiny_softmax_imagenet.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmvitconv.WithParC",
        stages=(0, 1, 2, 3),
        fraction=1.0,  # all attention in windows
        backbone=dict(type="mmpretrain.SwinTransformer", arch="tiny", drop_path_rate=0.2),
    )
)
