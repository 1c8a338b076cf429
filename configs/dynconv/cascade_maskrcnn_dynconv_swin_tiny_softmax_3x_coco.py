# Cascade Mask R-CNN on Swin-tiny on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh cascade_maskrcnn_dynconv_swin_tiny_softmax_3x_coco 8
# Published: nothing with this recipe: mmdet has no Cascade R-CNN with Swin
# Measured:  not trained here; model 85.63M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = [
    "../_base_/recipes/cascade_maskrcnn_coco_3x.py",
    "../_base_/backbones/dynconv_swin_tiny.py",
]
model = dict(
    backbone=dict(
        _base_.dynconv_swin_tiny,
        mixer="swin",
        init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
