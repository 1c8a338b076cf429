# RetinaNet with ParC-ConvNeXt-XT on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parc_convnext_xt_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 16.91M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# As in classification: stochastic depth 0.1. As in the authors' detectors: layer scale from 1.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/retinanet_coco_1x.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=dict(_base_.parc_convnext_xt, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[96, 192, 384]),
)
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))  # as norms: layer scales, biases
