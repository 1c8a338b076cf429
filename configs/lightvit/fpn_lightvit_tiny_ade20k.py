# Semantic FPN with LightViT-tiny on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/lightvit/fpn_lightvit_tiny_ade20k.py 8
# Published: nothing: the authors give no Semantic FPN; the recipe is FCViT's
# Measured:  not trained here; model 12.15M parameters; backbone 7.77M, 3.67G MACs at 512x512
# As in LightViT's detectors: stochastic depth of 0.1, norms, global tokens and bias tables not
# decayed.
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/fpn_ade20k_40k.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    # a map of stride 4
    neck=dict(type="mmvitconv.LightViTFPN", in_channels=[64, 128, 256], num_outs=4),
)
optim_wrapper = dict(paramwise_cfg=dict(_base_.no_decay, norm_decay_mult=0.0))
