# UperNet with LightViT-small on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/upernet_lightvit_small_ade20k.py 8
# Published: nothing: the authors give no UperNet recipe; this is the field's standard one
# Measured:  not trained here; model 41.93M parameters; backbone 17.42M, 8.21G MACs at 512x512
# Starts from: mmvitconv://lightvit_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_lightvit_tiny_ade20k.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://lightvit_small")),
    decode_head=dict(in_channels=[96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
