# Mask R-CNN on Swin-small with LN+ReLU on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh maskrcnn_dynconv_swin_small_lnrelu_3x_coco 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the schedule
#            is the field's
# Measured:  not trained here; model 69.11M parameters; backbone 48.84M, 185.44G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_small_lnrelu_imagenet are better: --weights
#   FILE (mmvitconv://swin_small fits too, but was learnt with softmax)
_base_ = "./maskrcnn_dynconv_swin_tiny_lnrelu_3x_coco.py"
model = dict(backbone=dict(arch="small"))
