# Swin-small on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_swin_small_softmax_imagenet.py 8
# Published: top-1 83.2 at 224 (README of github.com/microsoft/Swin-Transformer)
# Measured:  not trained here; model 49.61M parameters; backbone 48.84M, 8.74G MACs at 224x224
_base_ = "./dynconv_swin_tiny_softmax_imagenet.py"
model = dict(backbone=dict(arch="small", drop_path_rate=0.3))
