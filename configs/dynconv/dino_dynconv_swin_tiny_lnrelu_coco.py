# DINO with Swin-tiny with LN+ReLU on COCO: 12 epochs, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dino_dynconv_swin_tiny_lnrelu_coco.py 8
# Published: nothing: this detector is ours; its recipe is mmdet's DINO with four scales
# Measured:  not trained here; model 48.19M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/dino_coco_1x.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=dict(_base_.dynconv_swin_tiny, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
