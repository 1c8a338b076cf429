# RetinaNet on Swin-small on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_swin_small_softmax_coco.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 59.78M parameters; backbone 48.84M, 185.44G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_dynconv_swin_tiny_softmax_coco.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://swin_small")),
)
