# Semantic FPN with ParC-Net-S on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/parc/fpn_parcnet_s_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 8.41M parameters; backbone 4.29M, 6.74G MACs at 512x512
# Input: BGR / 255 without mean and standard deviation, as the authors have it. Tested in windows of
# the training size, as the response of the circular convolutions grows with the map.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/parcnet_s.py"]
model = dict(
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False),
    # Statistics of four images are too noisy; from scratch give SyncBN.
    backbone=_base_.parcnet_s,
    neck=dict(in_channels=[64, 96, 128, 160]),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
