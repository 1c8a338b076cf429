# RetinaNet with ParC-Net-XS on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parcnet_xs_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 10.73M parameters; backbone 1.44M, 15.41G MACs at 800x1280
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./retinanet_parcnet_s_coco.py"
model = dict(backbone=dict(arch="xs", init_cfg=None))
