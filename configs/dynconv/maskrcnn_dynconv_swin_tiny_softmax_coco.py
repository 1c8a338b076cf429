# Mask R-CNN on Swin-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/maskrcnn_dynconv_swin_tiny_softmax_coco.py 8
# Published: box AP 42.7, mask AP 39.3 (metafile of mmdet's Swin, mmdet 3.3.0)
# Measured:  not trained here; model 47.79M parameters; backbone 27.52M, 94.64G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers. The figures are of mmdet's, which
# warms up for 1000 iterations instead of 500 and decays biases.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_dynconv_swin_tiny_lnrelu_coco.py"
model = dict(
    backbone=dict(
        mixer="swin", init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny")
    ),
)
