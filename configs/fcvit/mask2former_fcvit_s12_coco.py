# Mask2Former with FCViT-S12 on COCO: 50 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/fcvit/mask2former_fcvit_s12_coco.py 8
# Published: nothing: this model is ours; its recipe is mmdet's Mask2Former, biases not decayed
# Measured:  not trained here; model 33.98M parameters; backbone 14.19M, 53.96G MACs at 800x1280
# Starts from: mmvitconv://fcvit_s12 (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/mask2former_coco_50e.py", "../_base_/backbones/fcvit_s12.py"]
model = dict(
    backbone=_base_.fcvit_s12,
    panoptic_head=dict(in_channels=[64, 128, 320, 512]),
)
