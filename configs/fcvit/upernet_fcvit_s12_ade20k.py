# UperNet with FCViT-S12 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/upernet_fcvit_s12_ade20k.py 8
# Published: nothing: the authors give no UperNet recipe; this is the field's standard one
# Measured:  not trained here; model 44.68M parameters; backbone 14.19M, 13.81G MACs at 512x512
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
