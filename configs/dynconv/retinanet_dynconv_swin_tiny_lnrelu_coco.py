# RetinaNet on Swin-tiny with LN+ReLU on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_swin_tiny_lnrelu_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 38.46M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_tiny_lnrelu_imagenet are better: --weights FILE
#   (mmvitconv://swin_tiny fits too, but was learnt with softmax)
_base_ = "./retinanet_dynconv_swin_tiny_dwvit_coco.py"
model = dict(backbone=dict(mixer="ln_relu"))
