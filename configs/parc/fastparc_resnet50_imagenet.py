# ResNet50 with early ParC on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/fastparc_resnet50_imagenet.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 25.89M parameters; backbone 23.84M, 4.71G MACs at 224x224
# Global kernels in half of the blocks of the first two stages. The recipe is that of
# parc_resnet50_imagenet.
_base_ = "./resnet50_imagenet.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmvitconv.WithParC",
        stages=(0, 1),  # of strides 4 and 8: long axes, where spectra pay
        backbone=dict(type="mmpretrain.ResNet", depth=50, drop_path_rate=0.1),
    )
)
