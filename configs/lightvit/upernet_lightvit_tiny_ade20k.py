# UperNet with LightViT-tiny on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/upernet_lightvit_tiny_ade20k.py 8
# Published: nothing: the authors give no UperNet recipe; this is the field's standard one
# Measured:  not trained here; model 31.22M parameters; backbone 7.77M, 3.67G MACs at 512x512
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(  # three levels: there is none of stride 4
    backbone=_base_.lightvit_tiny,
    decode_head=dict(in_channels=[64, 128, 256], in_index=[0, 1, 2]),
    auxiliary_head=dict(in_channels=128, in_index=1),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
