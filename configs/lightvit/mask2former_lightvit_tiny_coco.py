# Mask2Former with LightViT-tiny on COCO: 50 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/mask2former_lightvit_tiny_coco.py 8
# Published: nothing: this model is ours; its recipe is mmdet's Mask2Former, biases not decayed
# Measured:  not trained here; model 30.30M parameters; backbone 7.77M, 14.21G MACs at 800x1280
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/mask2former_coco_50e.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    # a map of stride 4 for the masks
    neck=dict(type="mmvitconv.LightViTFPN", in_channels=[64, 128, 256], num_outs=4),
    panoptic_head=dict(in_channels=[256] * 4),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
