# Semantic FPN with ParC-MobileNetV2 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/parc/fpn_parc_mobilenetv2_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 6.62M parameters; backbone 2.25M, 1.60G MACs at 512x512
# As in the authors' segmentors: nothing frozen, BatchNorms trained.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(type="mmvitconv.ParCMobileNetV2", arch="1.0", out_indices=(1, 2, 4, 7)),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
