# UperNet on ConvNeXt-tiny with early ParC on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_fastparc_convnext_tiny_ade20k.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 60.25M parameters; backbone 27.83M, 23.41G MACs at 512x512
# The recipe is that of the baseline, without layer decay.
# Starts from: random weights; those of fastparc_convnext_tiny_imagenet are better: --weights FILE
_base_ = ["./upernet_convnext_xt_ade20k.py", "../_base_/backbones/fastparc_convnext_tiny.py"]
model = dict(
    backbone=dict(
        _base_.fastparc_convnext_tiny,
        _delete_=True,
        backbone=dict(_base_.fastparc_convnext_tiny.backbone, drop_path_rate=0.4),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(  # every layer has the full rate
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(
        _delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
