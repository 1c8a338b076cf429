# RetinaNet with FCViT-S12 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/retinanet_fcvit_s12_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 24.44M parameters; backbone 14.19M, 53.96G MACs at 800x1280
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/retinanet_coco_1x.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=dict(_base_.fcvit_s12, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 320, 512]),
)
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))  # as norms: layer scales, biases
