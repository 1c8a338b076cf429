# RetinaNet with ParC-ResNet50 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parc_resnet50_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 36.15M parameters; backbone 21.69M, 103.79G MACs at 800x1280
# As in the authors' detectors: stem and first stage frozen, statistics of BatchNorms kept.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/retinanet_coco_1x.py"
model = dict(
    backbone=dict(
        type="mmvitconv.ParCResNet",
        arch="50",
        out_indices=(1, 2, 3),
        frozen_stages=0,
        norm_eval=True,
    ),
    neck=dict(in_channels=[512, 1024, 2048]),
)
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))  # as norms: biases
