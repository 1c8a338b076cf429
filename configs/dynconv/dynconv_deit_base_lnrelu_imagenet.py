# DeiT-base's dimensions with LN+ReLU attention on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/dynconv/dynconv_deit_base_lnrelu_imagenet.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 86.57M parameters; backbone 85.80M, 17.47G MACs at 224x224
_base_ = "./dynconv_deit_base_softmax_imagenet.py"
model = dict(backbone=dict(mixer="ln_relu"))
