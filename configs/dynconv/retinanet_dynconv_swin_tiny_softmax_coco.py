# RetinaNet on Swin-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/retinanet_dynconv_swin_tiny_softmax_coco.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 38.46M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./retinanet_dynconv_swin_tiny_dwvit_coco.py"
model = dict(
    backbone=dict(
        mixer="swin", init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny")
    ),
)
