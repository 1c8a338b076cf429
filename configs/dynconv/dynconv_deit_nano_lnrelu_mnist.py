# A small ViT with LN+ReLU attention on 4,000 MNIST digits, from scratch: 15 epochs.
#
# Command:   python tools/train.py configs/dynconv/dynconv_deit_nano_lnrelu_mnist.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  top-1 86.0 on 1,000 held-out digits (epoch 15 of 15), 5 minutes on one CPU core
# Data:      python tools/dataset_converters/mnist.py
_base_ = "../_base_/recipes/classifier_mnist.py"
model = dict(
    backbone=dict(
        type="mmvitconv.DynConvViT",
        arch=dict(embed_dims=96, depth=4, num_heads=3),
        out_indices=(3,),
        mixer="ln_relu",
        img_size=64,
        patch_size=8,
    ),
    head=dict(in_channels=96),
)
# A plain Transformer starts slowly: three times the epochs and the rate of the other families.
train_cfg = dict(max_epochs=15)
optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=5.0))
