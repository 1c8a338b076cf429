# RetinaNet with ParC-Net-S on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_parcnet_s_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 13.58M parameters; backbone 4.29M, 27.44G MACs at 800x1280
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/retinanet_coco_1x.py", "../_base_/backbones/parcnet_s.py"]
model = dict(
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False),
    # Statistics of two images are too noisy; from scratch give SyncBN.
    backbone=dict(_base_.parcnet_s, out_indices=(2, 3, 4)),
    neck=dict(in_channels=[96, 128, 160]),
)
