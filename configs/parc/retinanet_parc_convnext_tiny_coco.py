# RetinaNet with ParC-ConvNeXt-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parc_convnext_tiny_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 38.71M parameters; backbone 27.77M, 90.97G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./retinanet_parc_convnext_xt_coco.py"
model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=[192, 384, 768]))
