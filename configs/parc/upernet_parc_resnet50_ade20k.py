# UperNet with ParC-ResNet50 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_resnet50_ade20k.py 8
# Published: mIoU 43.85 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 64.68M parameters; backbone 21.69M, 22.70G MACs at 512x512
# The recipe is that of the segmentation repository of Fast-ParC's first author: stem and first
# stage frozen, statistics of BatchNorms kept, no weight decay of biases and one-dimensional
# parameters. Its stage-wise decay knows ConvNeXt's names only, so every layer here has the full
# rate.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/upernet_ade20k_160k_slide.py"
model = dict(
    backbone=dict(type="mmvitconv.ParCResNet", arch="50", frozen_stages=0, norm_eval=True),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(  # nothing of one dimension is decayed
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
)
