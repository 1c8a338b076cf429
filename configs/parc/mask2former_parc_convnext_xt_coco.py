# Mask2Former with ParC-ConvNeXt-XT on COCO: 50 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/mask2former_parc_convnext_xt_coco.py 8
# Published: nothing: this model is ours; its recipe is mmdet's Mask2Former, biases not decayed
# Measured:  not trained here; model 26.75M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/mask2former_coco_50e.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=_base_.parc_convnext_xt,
    panoptic_head=dict(in_channels=[48, 96, 192, 384]),
)
