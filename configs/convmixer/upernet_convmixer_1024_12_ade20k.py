# UperNet with ConvMixer-1024/12 in patches of 8 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_1024_12_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 54.67M parameters; backbone 13.64M, 55.57G MACs at 512x512
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./upernet_convmixer_768_32_ade20k.py"
model = dict(
    backbone=dict(arch="1024_12", init_cfg=None),
    neck=dict(in_channels=1024),
    decode_head=dict(in_channels=[1024] * 4),
    auxiliary_head=dict(in_channels=1024),
)
