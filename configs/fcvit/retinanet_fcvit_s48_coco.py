# RetinaNet with FCViT-S48 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/retinanet_fcvit_s48_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 61.21M parameters; backbone 50.96M, 201.65G MACs at 800x1280
# Starts from: mmvitconv://fcvit_s48 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_fcvit_s12_coco.py"
model = dict(backbone=dict(arch="s48", init_cfg=dict(checkpoint="mmvitconv://fcvit_s48")))
