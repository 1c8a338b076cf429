# Mask R-CNN on DeiT-tiny's dimensions with DW-ViT mixers on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/maskrcnn_dynconv_deit_tiny_dwvit_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 25.96M parameters; backbone 5.75M, 19.24G MACs at 800x1280
# Starts from: random weights; those of dynconv_deit_tiny_dwvit_imagenet are better: --weights FILE
_base_ = "./maskrcnn_dynconv_deit_small_lnrelu_coco.py"
model = dict(backbone=dict(arch="tiny", mixer="dwvit", window_size=0), neck=dict(in_channels=192))
