# UperNet with ConvMixer-1536/20 in patches of 8 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_1536_20_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 101.80M parameters; backbone 50.16M, 204.67G MACs at 512x512
# Starts from: mmvitconv://convmixer_1536_20 (ImageNet); else --weights FILE or --from-scratch
#   (the stem is resized from patches of 7)
_base_ = "./upernet_convmixer_768_32_ade20k.py"
model = dict(
    backbone=dict(arch="1536_20", init_cfg=dict(checkpoint="mmvitconv://convmixer_1536_20")),
    neck=dict(in_channels=1536),
    decode_head=dict(in_channels=[1536] * 4),
    auxiliary_head=dict(in_channels=1536),
)
