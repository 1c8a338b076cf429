# Mask R-CNN with LightViT-tiny on COCO: 100 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/maskrcnn_lightvit_tiny_lsj_100e_coco.py 8
# Published: nothing: this recipe is ours: large-scale jitter and 100 epochs, as ViTDet's
# Measured:  not trained here; model 28.05M parameters; backbone 7.77M, 14.21G MACs at 800x1280
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = ["../_base_/recipes/maskrcnn_coco_lsj_100e.py", "../_base_/backbones/lightvit_tiny.py"]
model = dict(
    backbone=_base_.lightvit_tiny,
    neck=dict(type="mmvitconv.LightViTFPN", in_channels=[64, 128, 256]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
