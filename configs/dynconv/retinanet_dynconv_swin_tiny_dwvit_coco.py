# RetinaNet on Swin-tiny's dimensions with DW-ViT mixers of 7x7 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_swin_tiny_dwvit_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 38.88M parameters; backbone 27.94M, 77.68G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_dwvit_imagenet are better:
#   --weights FILE
_base_ = ["../_base_/recipes/retinanet_coco_1x.py", "../_base_/backbones/dynconv_swin_tiny.py"]
model = dict(
    backbone=dict(_base_.dynconv_swin_tiny, out_indices=(1, 2, 3), mixer="dwvit"),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
