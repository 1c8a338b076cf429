# RetinaNet on DeiT-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_deit_tiny_softmax_coco.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 15.09M parameters; backbone 5.53M, 49.87G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: random weights; those of dynconv_deit_tiny_softmax_imagenet are better: --weights
#   FILE (mmvitconv://deit_tiny fits too, but has a class token, which is dropped)
_base_ = "./retinanet_dynconv_deit_small_lnrelu_coco.py"
model = dict(
    backbone=dict(arch="tiny", mixer="deit"),
    neck=[
        dict(_base_.taps, in_channels=192, patch_size=16),
        dict(_base_.fpn, in_channels=[192] * 3),
    ],
)
