# Cascade Mask R-CNN on Swin-tiny's dimensions with DW-ViT mixers on COCO: 3x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh cascade_maskrcnn_dynconv_swin_tiny_dwvit_3x_coco 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the schedule
#            is the field's
# Measured:  not trained here; model 86.05M parameters; backbone 27.94M, 77.68G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_dwvit_imagenet are better: --weights FILE
_base_ = "./cascade_maskrcnn_dynconv_swin_tiny_softmax_3x_coco.py"
model = dict(backbone=dict(mixer="dwvit", init_cfg=None))
