# UperNet on Swin-small with LN+ReLU on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_small_lnrelu_ade20k.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 81.26M parameters; backbone 48.84M, 48.39G MACs at 512x512
# Starts from: random weights; those of dynconv_swin_small_lnrelu_imagenet are better: --weights
#   FILE (mmvitconv://swin_small fits too, but was learnt with softmax)
_base_ = "./upernet_dynconv_swin_tiny_lnrelu_ade20k.py"
model = dict(backbone=dict(arch="small"))
