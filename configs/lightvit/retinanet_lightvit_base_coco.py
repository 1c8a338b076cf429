# RetinaNet with LightViT-base on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/retinanet_lightvit_base_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 43.49M parameters; backbone 33.26M, 68.12G MACs at 800x1280
# Starts from: mmvitconv://lightvit_base (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_lightvit_tiny_coco.py"
model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="mmvitconv://lightvit_base")),
    neck=dict(in_channels=[128, 256, 512]),
)
