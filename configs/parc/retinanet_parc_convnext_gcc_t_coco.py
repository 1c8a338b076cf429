# RetinaNet with ParC-ConvNeXt-gcc_t on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parc_convnext_gcc_t_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 36.26M parameters; backbone 26.20M, 91.27G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./retinanet_parc_convnext_xt_coco.py"
model = dict(backbone=dict(arch="gcc_t"), neck=dict(in_channels=[112, 224, 448]))
