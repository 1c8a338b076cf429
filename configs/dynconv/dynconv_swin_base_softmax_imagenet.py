# Swin-base on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_swin_base_softmax_imagenet.py 8
# Published: top-1 83.5 at 224 (README of github.com/microsoft/Swin-Transformer)
# Measured:  not trained here; model 87.77M parameters; backbone 86.74M, 15.43G MACs at 224x224
_base_ = "./dynconv_swin_tiny_softmax_imagenet.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.5), head=dict(in_channels=1024))
