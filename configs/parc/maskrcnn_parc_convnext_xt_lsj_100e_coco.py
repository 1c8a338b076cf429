# Mask R-CNN with ParC-ConvNeXt-XT on COCO: 100 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_convnext_xt_lsj_100e_coco.py 8
# Published: nothing: this recipe is ours: large-scale jitter and 100 epochs, as ViTDet's
# Measured:  not trained here; model 27.12M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/maskrcnn_coco_lsj_100e.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=_base_.parc_convnext_xt,
    neck=dict(in_channels=[48, 96, 192, 384]),
)
