# Mask R-CNN on ConvNeXt-tiny with early ParC on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_fastparc_convnext_tiny_coco.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 48.10M parameters; backbone 27.83M, 92.46G MACs at 800x1280
# The recipe is that of the baseline, without layer decay.
# Starts from: random weights; those of fastparc_convnext_tiny_imagenet are better: --weights FILE
_base_ = ["./maskrcnn_convnext_xt_coco.py", "../_base_/backbones/fastparc_convnext_tiny.py"]
model = dict(
    backbone=dict(_base_.fastparc_convnext_tiny, _delete_=True),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(  # every layer has the full rate
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(
        _delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
