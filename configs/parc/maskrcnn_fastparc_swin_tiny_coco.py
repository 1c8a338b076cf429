# Mask R-CNN on Swin-tiny with ParC for attention on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_fastparc_swin_tiny_coco.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 39.26M parameters; backbone 18.99M, 65.10G MACs at 800x1280
# Starts from: random weights; those of fastparc_swin_tiny_imagenet are better: --weights FILE
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/backbones/fastparc_swin_tiny.py"]
model = dict(
    backbone=_base_.fastparc_swin_tiny,
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
