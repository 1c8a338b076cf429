# Mask R-CNN with ParC-Net-S on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parcnet_s_coco.py 8
# Published: nothing: the authors give no Mask R-CNN; this is the field's standard recipe
# Measured:  not trained here; model 24.31M parameters; backbone 4.29M, 27.44G MACs at 800x1280
# Input: BGR / 255 without mean and standard deviation, as the authors have it.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/backbones/parcnet_s.py"]
model = dict(
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False),
    # Statistics of two images are too noisy; from scratch give SyncBN.
    backbone=_base_.parcnet_s,
    neck=dict(in_channels=[64, 96, 128, 160]),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
