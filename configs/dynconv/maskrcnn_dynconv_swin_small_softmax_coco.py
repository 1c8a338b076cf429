# Mask R-CNN on Swin-small on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/maskrcnn_dynconv_swin_small_softmax_coco.py 8
# Published: nothing for this size with the 1x schedule; the recipe is that of tiny
# Measured:  not trained here; model 69.11M parameters; backbone 48.84M, 185.44G MACs at 800x1280
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./maskrcnn_dynconv_swin_tiny_softmax_coco.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://swin_small")),
)
