# UperNet with ParC-Net-S on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parcnet_s_ade20k.py 8
# Published: nothing: the authors give no UperNet for it; this is the field's standard recipe
# Measured:  not trained here; model 31.88M parameters; backbone 4.29M, 6.74G MACs at 512x512
# Input: BGR / 255 without mean and standard deviation, as the authors have it. Tested in windows of
# the training size, as the response of the circular convolutions grows with the map.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/upernet_ade20k_160k.py", "../_base_/backbones/parcnet_s.py"]
model = dict(
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False),
    # Statistics of two images are too noisy; from scratch give SyncBN.
    backbone=_base_.parcnet_s,
    decode_head=dict(in_channels=[64, 96, 128, 160]),
    auxiliary_head=dict(in_channels=128),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
