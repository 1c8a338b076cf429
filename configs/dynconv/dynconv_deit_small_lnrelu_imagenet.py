# DeiT-small's dimensions with LN+ReLU attention on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_deit_small_lnrelu_imagenet.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 22.05M parameters; backbone 21.67M, 4.57G MACs at 224x224
_base_ = "./dynconv_deit_small_softmax_imagenet.py"
model = dict(backbone=dict(mixer="ln_relu"))
