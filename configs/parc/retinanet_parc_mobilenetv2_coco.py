# RetinaNet with ParC-MobileNetV2 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parc_mobilenetv2_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 14.39M parameters; backbone 2.25M, 6.44G MACs at 800x1280
# As in the authors' detectors: maps of 32, 96 and 1280 channels, nothing frozen, BatchNorms
# trained.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/retinanet_coco_1x.py"
model = dict(
    backbone=dict(type="mmvitconv.ParCMobileNetV2", arch="1.0", out_indices=(2, 4, 7)),
    neck=dict(in_channels=[32, 96, 1280]),
)
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))  # as norms: biases
