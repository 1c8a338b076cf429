# Mask2Former with LightViT-tiny on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/mask2former_lightvit_tiny_ade20k.py 8
# Published: nothing: this model is ours; its recipe is mmseg's Mask2Former, biases not decayed
# Measured:  not trained here; model 30.32M parameters; backbone 7.77M, 3.67G MACs at 512x512
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/mask2former_ade20k_160k.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    # a map of stride 4 for the masks
    neck=dict(type="mmvitconv.LightViTFPN", in_channels=[64, 128, 256], num_outs=4),
    decode_head=dict(in_channels=[256] * 4),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
