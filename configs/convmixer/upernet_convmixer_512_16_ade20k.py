# UperNet with ConvMixer-512/16 in patches of 8 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_512_16_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 37.37M parameters; backbone 4.87M, 19.73G MACs at 512x512
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./upernet_convmixer_768_32_ade20k.py"
model = dict(
    backbone=dict(arch="512_16", init_cfg=None),
    neck=dict(in_channels=512),
    decode_head=dict(in_channels=[512] * 4),
    auxiliary_head=dict(in_channels=512),
)
