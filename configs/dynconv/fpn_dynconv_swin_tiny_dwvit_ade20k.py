# Semantic FPN on Swin-tiny's dimensions with DW-ViT mixers on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/dynconv/fpn_dynconv_swin_tiny_dwvit_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713; the recipe is
#            FCViT's
# Measured:  not trained here; model 32.31M parameters; backbone 27.94M, 20.04G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_tiny_dwvit_imagenet are better: --weights FILE
_base_ = "./fpn_dynconv_swin_tiny_lnrelu_ade20k.py"
model = dict(backbone=dict(mixer="dwvit"))
