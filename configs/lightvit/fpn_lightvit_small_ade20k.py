# Semantic FPN with LightViT-small on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/lightvit/fpn_lightvit_small_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 21.86M parameters; backbone 17.42M, 8.21G MACs at 512x512
# As in LightViT's detectors: stochastic depth of 0.1, norms, global tokens and bias tables not
# decayed.
# Starts from: mmvitconv://lightvit_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./fpn_lightvit_tiny_ade20k.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://lightvit_small")),
    neck=dict(in_channels=[96, 192, 384]),
)
