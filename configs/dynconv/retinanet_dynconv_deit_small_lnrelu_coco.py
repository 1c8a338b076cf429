# RetinaNet on DeiT-small with LN+ReLU on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_deit_small_lnrelu_coco.py 8
# Published: nothing; the design is ours, following the abstract of arXiv:2309.10713
# Measured:  not trained here; model 32.26M parameters; backbone 21.67M, 143.45G MACs at 800x1280
# Starts from: random weights; those of dynconv_deit_small_lnrelu_imagenet are better: --weights
#   FILE (mmvitconv://deit_small fits too, but was learnt with softmax)
_base_ = [
    "../_base_/recipes/retinanet_coco_1x.py",
    "../_base_/models/isotropic_retinanet.py",
    "../_base_/backbones/dynconv_deit_small.py",
]
model = dict(
    backbone=dict(
        _base_.dynconv_deit_small,
        window_size=14,  # of all blocks but these four, which see the whole map
        global_blocks=(2, 5, 8, 11),
    ),
    neck=[
        dict(_base_.taps, in_channels=384, patch_size=16),
        dict(_base_.fpn, in_channels=[384] * 3),
    ],
)
optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
