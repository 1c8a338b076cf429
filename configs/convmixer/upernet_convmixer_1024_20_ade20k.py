# UperNet with ConvMixer-1024/20 in patches of 16 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_1024_20_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 72.96M parameters; backbone 23.54M, 23.98G MACs at 512x512
# Starts from: mmvitconv://convmixer_1024_20 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 14)
_base_ = "./upernet_convmixer_768_32_ade20k.py"
model = dict(
    backbone=dict(
        arch="1024_20", patch_size=16, init_cfg=dict(checkpoint="mmvitconv://convmixer_1024_20")
    ),
    neck=dict(in_channels=1024, patch_size=16),
    decode_head=dict(in_channels=[1024] * 4),
    auxiliary_head=dict(in_channels=1024),
)
