# Semantic FPN with FCViT-S24 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fpn_fcvit_s24_ade20k.py 8
# Published: mIoU 45.5 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 30.71M parameters; backbone 26.45M, 26.42G MACs at 512x512
# Starts from: mmvitconv://fcvit_s24 (ImageNet); else --weights FILE or --from-scratch
_base_ = "./fpn_fcvit_s12_ade20k.py"
model = dict(backbone=dict(arch="s24", init_cfg=dict(checkpoint="mmvitconv://fcvit_s24")))
