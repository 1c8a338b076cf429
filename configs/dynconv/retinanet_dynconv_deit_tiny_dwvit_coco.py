# RetinaNet on DeiT-tiny's dimensions with DW-ViT mixers on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_deit_tiny_dwvit_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 15.32M parameters; backbone 5.76M, 19.24G MACs at 800x1280
# Starts from: random weights; those of dynconv_deit_tiny_dwvit_imagenet are better: --weights FILE
_base_ = "./retinanet_dynconv_deit_small_lnrelu_coco.py"
model = dict(
    backbone=dict(arch="tiny", mixer="dwvit", window_size=0),
    neck=[
        dict(_base_.taps, in_channels=192, patch_size=16),
        dict(_base_.fpn, in_channels=[192] * 3),
    ],
)
