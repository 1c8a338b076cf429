# Semantic FPN with LightViT-base on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/lightvit/fpn_lightvit_base_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 37.75M parameters; backbone 33.26M, 17.88G MACs at 512x512
# As in LightViT's detectors: stochastic depth of 0.1, norms, global tokens and bias tables not
# decayed.
# Starts from: mmvitconv://lightvit_base (ImageNet); else --weights FILE or --from-scratch
_base_ = "./fpn_lightvit_tiny_ade20k.py"
model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="mmvitconv://lightvit_base")),
    neck=dict(in_channels=[128, 256, 512]),
)
