# UperNet with ParC-ConvNeXt-gcc_t on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_parc_convnext_gcc_t_ade20k.py 8
# Published: nothing for this size; the recipe is that of XT
# Measured:  not trained here; model 55.98M parameters; backbone 26.20M, 23.27G MACs at 512x512
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./upernet_parc_convnext_xt_ade20k.py"
model = dict(
    backbone=dict(arch="gcc_t"),
    decode_head=dict(in_channels=[56, 112, 224, 448]),
    auxiliary_head=dict(in_channels=224),
)
