# Semantic FPN with ParC-ConvNeXt-XT on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/parc/fpn_parc_convnext_xt_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 11.22M parameters; backbone 7.03M, 5.96G MACs at 512x512
# As in classification: stochastic depth 0.1. As in the authors' segmentors: layer scale from 1.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/fpn_ade20k_40k.py"
model = dict(
    backbone=dict(
        type="mmvitconv.ParCConvNeXt", arch="xt", drop_path_rate=0.1, layer_scale_init_value=1.0
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
