# UperNet with LightViT-base on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/upernet_lightvit_base_ade20k.py 8
# Published: nothing: the authors give no UperNet recipe; this is the field's standard one
# Measured:  not trained here; model 58.81M parameters; backbone 33.26M, 17.88G MACs at 512x512
# Starts from: mmvitconv://lightvit_base (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_lightvit_tiny_ade20k.py"
model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="mmvitconv://lightvit_base")),
    decode_head=dict(in_channels=[128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
