# Mask2Former with ParC-ConvNeXt-XT on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/mask2former_parc_convnext_xt_ade20k.py 8
# Published: nothing: this model is ours; its recipe is mmseg's Mask2Former, biases not decayed
# Measured:  not trained here; model 26.76M parameters; backbone 7.03M, 5.96G MACs at 512x512
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/mask2former_ade20k_160k.py", "../_base_/backbones/parc_convnext_xt.py"]
model = dict(
    backbone=_base_.parc_convnext_xt,
    decode_head=dict(in_channels=[48, 96, 192, 384]),
)
