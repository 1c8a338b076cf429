# UperNet on Swin-tiny's dimensions, DW-ViT mixers of 7x7, on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_tiny_dwvit_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 60.36M parameters; backbone 27.94M, 20.04G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_tiny_dwvit_imagenet are better:
#   --weights FILE
_base_ = "./upernet_dynconv_swin_tiny_lnrelu_ade20k.py"
model = dict(backbone=dict(mixer="dwvit"))
