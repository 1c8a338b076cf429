# Mask R-CNN on Swin-tiny with LN+ReLU on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/maskrcnn_dynconv_swin_tiny_lnrelu_3x_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the schedule
#            is the field's
# Measured:  not trained here; model 47.79M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/maskrcnn_coco_3x.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=_base_.dynconv_swin_tiny,
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
