# UperNet with FCViT-S48 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/upernet_fcvit_s48_ade20k.py 8
# Published: nothing: the authors give no UperNet recipe; this is the field's standard one
# Measured:  not trained here; model 81.45M parameters; backbone 50.97M, 51.63G MACs at 512x512
# Starts from: mmvitconv://fcvit_s48 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_fcvit_s12_ade20k.py"
model = dict(backbone=dict(arch="s48", init_cfg=dict(checkpoint="mmvitconv://fcvit_s48")))
