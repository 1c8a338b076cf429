# Swin-base's dimensions with DW-ViT mixers of 7x7 on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_swin_base_dwvit_imagenet.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 88.91M parameters; backbone 87.88M, 13.65G MACs at 224x224
_base_ = "./dynconv_swin_base_softmax_imagenet.py"
model = dict(backbone=dict(mixer="dwvit"))
