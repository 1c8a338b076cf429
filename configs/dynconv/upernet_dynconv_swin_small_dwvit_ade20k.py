# UperNet on Swin-small's dimensions with DW-ViT mixers on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_small_dwvit_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 82.11M parameters; backbone 49.69M, 38.80G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_small_dwvit_imagenet are better: --weights FILE
_base_ = "./upernet_dynconv_swin_tiny_lnrelu_ade20k.py"
model = dict(backbone=dict(arch="small", mixer="dwvit"))
