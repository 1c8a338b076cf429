# UperNet with ParC-Net-XS on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parcnet_xs_ade20k.py 8
# Published: nothing: the authors give no UperNet for it; this is the field's standard recipe
# Measured:  not trained here; model 29.03M parameters; backbone 1.44M, 3.81G MACs at 512x512
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./upernet_parcnet_s_ade20k.py"
model = dict(backbone=dict(arch="xs", init_cfg=None))
