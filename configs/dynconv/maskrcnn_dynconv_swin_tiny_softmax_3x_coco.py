# Mask R-CNN on Swin-tiny on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh maskrcnn_dynconv_swin_tiny_softmax_3x_coco 8
# Published: box AP 46.0, mask AP 41.6 (metafile of mmdet's Swin, mmdet 3.3.0)
# Measured:  not trained here; model 47.79M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers. The figures are of mmdet's, which
# warms up for 1000 iterations instead of 500 and decays biases.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_dynconv_swin_tiny_lnrelu_3x_coco.py"
model = dict(
    backbone=dict(
        mixer="swin", init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny")
    ),
)
