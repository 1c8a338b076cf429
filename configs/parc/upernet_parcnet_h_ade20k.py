# UperNet with ParC-Net-H on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parcnet_h_ade20k.py 8
# Published: nothing: the authors give no UperNet for it; this is the field's standard recipe
# Measured:  not trained here; model 48.98M parameters; backbone 19.03M, 34.45G MACs at 512x512
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./upernet_parcnet_s_ade20k.py"
model = dict(
    backbone=dict(arch="h", init_cfg=None),
    decode_head=dict(in_channels=[144, 216, 288, 432]),
    auxiliary_head=dict(in_channels=288),
)
