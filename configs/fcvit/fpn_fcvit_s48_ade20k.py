# Semantic FPN with FCViT-S48 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fpn_fcvit_s48_ade20k.py 8
# Published: nothing for this size; the recipe is that of S12 and S24
# Measured:  not trained here; model 55.23M parameters; backbone 50.97M, 51.63G MACs at 512x512
# Starts from: mmvitconv://fcvit_s48 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./fpn_fcvit_s12_ade20k.py"
model = dict(backbone=dict(arch="s48", init_cfg=dict(checkpoint="mmvitconv://fcvit_s48")))
