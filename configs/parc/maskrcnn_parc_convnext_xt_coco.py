# Mask R-CNN with ParC-ConvNeXt-XT on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_convnext_xt_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN, 3x
# Measured:  not trained here; model 27.12M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# Ours: Mask R-CNN and the 1x schedule. From the Cascade R-CNN recipe of Fast-ParC's first author:
# AdamW 2e-4, weight decay 0.05, layer decay 0.7, layer scale from 1; classification's stochastic
# depth.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = [
    "../_base_/recipes/maskrcnn_coco_1x.py",
    "../_base_/backbones/parc_convnext_xt.py",
    "../_base_/schedules/fastparc_detectors.py",
]
model = dict(
    backbone=_base_.parc_convnext_xt,
    neck=dict(in_channels=[48, 96, 192, 384]),
)
optim_wrapper = _base_.layer_decay
