# Semantic FPN with FCViT-tiny on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fpn_fcvit_tiny_ade20k.py 8
# Published: nothing for this size; the recipe is that of S12 and S24
# Measured:  not trained here; model 8.62M parameters; backbone 4.46M, 4.71G MACs at 512x512
# Starts from: mmvitconv://fcvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./fpn_fcvit_s12_ade20k.py"
model = dict(
    backbone=dict(arch="tiny", init_cfg=dict(checkpoint="mmvitconv://fcvit_tiny")),
    neck=dict(in_channels=[32, 64, 160, 320]),
)
