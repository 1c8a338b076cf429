# Mask R-CNN on DeiT-small with ParC for attention on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_fastparc_deit_small_coco.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 35.55M parameters; backbone 14.70M, 59.01G MACs at 800x1280
# Starts from: random weights; those of fastparc_deit_small_imagenet are better: --weights FILE
_base_ = [
    "../_base_/recipes/maskrcnn_coco_1x.py",
    "../_base_/schedules/dynconv_no_decay.py",
    "../_base_/backbones/fastparc_deit_small.py",
]
model = dict(
    backbone=_base_.fastparc_deit_small,
    neck=dict(
        _delete_=True,
        type="mmvitconv.IsotropicPyramid",
        in_channels=384,
        patch_size=16,
        mode="last",
        out_channels=256,
    ),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
