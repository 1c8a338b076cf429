# UperNet with FCViT-tiny on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/upernet_fcvit_tiny_ade20k.py 8
# Published: nothing: the authors give no UperNet recipe; this is the field's standard one
# Measured:  not trained here; model 33.17M parameters; backbone 4.46M, 4.71G MACs at 512x512
# Starts from: mmvitconv://fcvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_fcvit_s12_ade20k.py"
model = dict(
    backbone=dict(arch="tiny", init_cfg=dict(checkpoint="mmvitconv://fcvit_tiny")),
    decode_head=dict(in_channels=[32, 64, 160, 320]),
    auxiliary_head=dict(in_channels=160),
)
