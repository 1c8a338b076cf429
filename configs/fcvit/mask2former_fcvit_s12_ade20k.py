# Mask2Former with FCViT-S12 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/mask2former_fcvit_s12_ade20k.py 8
# Published: nothing: this model is ours; its recipe is mmseg's Mask2Former, biases not decayed
# Measured:  not trained here; model 34.00M parameters; backbone 14.19M, 13.81G MACs at 512x512
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/mask2former_ade20k_160k.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
