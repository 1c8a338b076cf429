# Cascade Mask R-CNN on Swin-tiny with LN+ReLU on COCO: 3x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh cascade_maskrcnn_dynconv_swin_tiny_lnrelu_3x_coco 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the schedule
#            is the field's
# Measured:  not trained here; model 85.63M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = "./cascade_maskrcnn_dynconv_swin_tiny_softmax_3x_coco.py"
model = dict(backbone=dict(mixer="ln_relu", init_cfg=None))
