# Mask R-CNN with ParC-ConvNeXt-XT on COCO: 100 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_convnext_xt_lsj_100e_coco.py 8
# Published: nothing: this recipe is ours: large-scale jitter and 100 epochs, as ViTDet's
# Measured:  not trained here; model 27.12M parameters; backbone 7.03M, 23.37G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/maskrcnn_coco_lsj_100e.py"
model = dict(
    backbone=dict(
        type="mmvitconv.ParCConvNeXt",
        arch="xt",
        drop_path_rate=0.1,
        layer_scale_init_value=1.0,
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
