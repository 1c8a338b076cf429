# Mask2Former with Swin-tiny with LN+ReLU on COCO: 50 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/mask2former_dynconv_swin_tiny_lnrelu_coco.py 8
# Published: nothing: this model is ours; its recipe is mmdet's Mask2Former, biases not decayed
# Measured:  not trained here; model 47.42M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = ["../_base_/recipes/mask2former_coco_50e.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=_base_.dynconv_swin_tiny,
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
