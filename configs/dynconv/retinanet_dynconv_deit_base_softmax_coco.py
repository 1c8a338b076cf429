# RetinaNet on DeiT-base on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_deit_base_softmax_coco.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 99.35M parameters; backbone 85.80M, 461.75G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: random weights; those of dynconv_deit_base_softmax_imagenet are better: --weights
#   FILE (mmvitconv://deit_base fits too, but has a class token, which is dropped)
_base_ = "./retinanet_dynconv_deit_small_lnrelu_coco.py"
model = dict(
    backbone=dict(arch="base", mixer="deit"),
    neck=[
        dict(_base_.taps, in_channels=768, patch_size=16),
        dict(_base_.fpn, in_channels=[768] * 3),
    ],
)
