# RetinaNet with FCViT-S24 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/retinanet_fcvit_s24_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 36.70M parameters; backbone 26.45M, 103.19G MACs at 800x1280
# Starts from: mmvitconv://fcvit_s24 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_fcvit_s12_coco.py"
model = dict(backbone=dict(arch="s24", init_cfg=dict(checkpoint="mmvitconv://fcvit_s24")))
