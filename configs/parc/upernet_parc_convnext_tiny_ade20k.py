# UperNet with ParC-ConvNeXt-tiny on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_convnext_tiny_ade20k.py 8
# Published: nothing for this size; the recipe is that of XT
# Measured:  not trained here; model 60.19M parameters; backbone 27.77M, 23.25G MACs at 512x512
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./upernet_parc_convnext_xt_ade20k.py"
model = dict(
    backbone=dict(arch="tiny"),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
