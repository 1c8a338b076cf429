# Semantic FPN with ParC-ResNet50 on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/parc/fpn_parc_resnet50_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 26.68M parameters; backbone 21.69M, 22.70G MACs at 512x512
# As in the authors' segmentors: stem and first stage frozen, statistics of BatchNorms kept.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(type="mmvitconv.ParCResNet", arch="50", frozen_stages=0, norm_eval=True),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
