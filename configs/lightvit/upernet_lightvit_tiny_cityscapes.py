# UperNet with LightViT-tiny on Cityscapes: 80k iterations, batch 4 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/upernet_lightvit_tiny_cityscapes.py 4
# Published: nothing: this model is ours, and so is the recipe: our UperNet's, as long as mmseg's
# Measured:  not trained here; model 31.12M parameters; backbone 7.77M, 7.30G MACs at 512x1024
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/upernet_cityscapes_80k.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    # three levels: there is none of stride 4
    decode_head=dict(in_channels=[64, 128, 256], in_index=[0, 1, 2]),
    auxiliary_head=dict(in_channels=128, in_index=1),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
