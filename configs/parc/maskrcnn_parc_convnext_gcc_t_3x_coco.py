# Mask R-CNN with ParC-ConvNeXt-gcc_t on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_convnext_gcc_t_3x_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN
# Measured:  not trained here; model 46.32M parameters; backbone 26.20M, 91.27G MACs at 800x1280
# The recipe is that of XT, which is ours, but for the layer decay: the trunk has more layers.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./maskrcnn_parc_convnext_xt_3x_coco.py"
model = dict(backbone=dict(arch="gcc_t"), neck=dict(in_channels=[56, 112, 224, 448]))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.85))
