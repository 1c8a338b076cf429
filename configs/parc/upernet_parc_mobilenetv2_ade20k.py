# UperNet with ParC-MobileNetV2 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_mobilenetv2_ade20k.py 8
# Published: mIoU 35.13 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 37.15M parameters; backbone 2.25M, 1.60G MACs at 512x512
# The recipe is that of the segmentation repository of Fast-ParC's first author: nothing frozen,
# BatchNorms trained, no weight decay of biases and one-dimensional parameters. Its stage-wise decay
# knows ConvNeXt's names only, so every layer here has the full rate.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/upernet_ade20k_160k_slide.py"
model = dict(
    backbone=dict(type="mmvitconv.ParCMobileNetV2", arch="1.0", out_indices=(1, 2, 4, 7)),
    decode_head=dict(in_channels=[24, 32, 96, 1280]),
    auxiliary_head=dict(in_channels=96),
)
optim_wrapper = dict(  # nothing of one dimension is decayed
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
)
