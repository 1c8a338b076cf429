# RetinaNet on Swin-base on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_swin_base_softmax_coco.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 98.39M parameters; backbone 86.74M, 327.21G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_base (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_dynconv_swin_tiny_softmax_coco.py"
model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="mmvitconv://swin_base")),
    neck=dict(in_channels=[256, 512, 1024]),
)
