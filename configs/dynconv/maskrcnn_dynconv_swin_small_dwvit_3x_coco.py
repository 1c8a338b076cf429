# Mask R-CNN on Swin-small's dimensions with DW-ViT mixers on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/maskrcnn_dynconv_swin_small_dwvit_3x_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the schedule
#            is the field's
# Measured:  not trained here; model 69.97M parameters; backbone 49.69M, 150.44G MACs at 800x1280
# Starts from: random weights; those of dynconv_swin_small_dwvit_imagenet are better: --weights FILE
_base_ = "./maskrcnn_dynconv_swin_tiny_lnrelu_3x_coco.py"
model = dict(backbone=dict(arch="small", mixer="dwvit"))
