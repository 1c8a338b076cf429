# ConvNeXt-tiny, early ParC, on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/fastparc_convnext_tiny_imagenet.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 28.60M parameters; backbone 27.83M, 4.45G MACs at 224x224
# Global kernels in a third of the blocks of the first two stages. The recipe is that of
# parc_convnext_xt_imagenet.
_base_ = "./convnext_xt_imagenet.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmvitconv.WithParC",
        stages=(0, 1),  # of strides 4 and 8: long axes, where spectra pay
        backbone=dict(type="mmpretrain.ConvNeXt", arch="tiny", drop_path_rate=0.1),
    ),
    head=dict(in_channels=768),
)
