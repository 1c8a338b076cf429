# Mask R-CNN on Swin-small on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh maskrcnn_dynconv_swin_small_softmax_3x_coco 8
# Published: box AP 48.2, mask AP 43.2 (metafile of mmdet's Swin, mmdet 3.3.0)
# Measured:  not trained here; model 69.11M parameters; backbone 48.84M, 185.44G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers. The figures are of mmdet's, which
# warms up for 1000 iterations instead of 500, decays biases and is trained with mixed precision.
# Starts from: mmvitconv://swin_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_dynconv_swin_tiny_softmax_3x_coco.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://swin_small")),
)
