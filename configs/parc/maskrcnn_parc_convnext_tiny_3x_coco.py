# Mask R-CNN with ParC-ConvNeXt-tiny on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_convnext_tiny_3x_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN
# Measured:  not trained here; model 48.04M parameters; backbone 27.77M, 90.97G MACs at 800x1280
# The recipe is that of XT, which is ours.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./maskrcnn_parc_convnext_xt_3x_coco.py"
model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=[96, 192, 384, 768]))
