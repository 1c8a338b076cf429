# Mask R-CNN on ResNet50 with early ParC on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_fastparc_resnet50_coco.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 44.73M parameters; backbone 23.84M, 176.21G MACs at 800x1280
# The recipe is that of the baseline, but nothing is frozen.
# Starts from: random weights; those of fastparc_resnet50_imagenet are better: --weights FILE
_base_ = ["./maskrcnn_resnet50_coco.py", "../_base_/backbones/fastparc_resnet50.py"]
model = dict(
    backbone=dict(_base_.fastparc_resnet50, _delete_=True),
)
