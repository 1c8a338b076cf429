# UperNet on DeiT-small's dimensions with DW-ViT mixers on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_deit_small_dwvit_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 54.01M parameters; backbone 22.13M, 19.07G MACs at 512x512
# Starts from: random weights; those of dynconv_deit_small_dwvit_imagenet are better: --weights FILE
_base_ = "./upernet_dynconv_deit_small_lnrelu_ade20k.py"
model = dict(backbone=dict(mixer="dwvit"))
