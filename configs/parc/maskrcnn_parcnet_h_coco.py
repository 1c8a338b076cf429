# Mask R-CNN with ParC-Net-H on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parcnet_h_coco.py 8
# Published: nothing: the authors give no Mask R-CNN; this is the field's standard recipe
# Measured:  not trained here; model 39.21M parameters; backbone 19.03M, 137.71G MACs at 800x1280
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./maskrcnn_parcnet_s_coco.py"
model = dict(backbone=dict(arch="h", init_cfg=None), neck=dict(in_channels=[144, 216, 288, 432]))
