# UperNet with FCViT-S12 on Cityscapes: 80k iterations, batch 4 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/upernet_fcvit_s12_cityscapes.py 4
# Published: nothing: this model is ours, and so is the recipe: our UperNet's, as long as mmseg's
# Measured:  not trained here; model 44.58M parameters; backbone 14.19M, 27.63G MACs at 512x1024
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/upernet_cityscapes_80k.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
