# Mask R-CNN on Swin-tiny on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh maskrcnn_dynconv_swin_tiny_softmax_3x_coco 8
# Published: nothing with this recipe: schedule and exemptions from weight decay are ours
# Measured:  not trained here; model 47.79M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_dynconv_swin_tiny_lnrelu_3x_coco.py"
model = dict(
    backbone=dict(
        mixer="swin",
        init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny"),
    ),
)
