# Cascade Mask R-CNN with ParC-MobileNetV2 on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/cascade_maskrcnn_parc_mobilenetv2_3x_coco.py 8
# Published: box AP 44.3, mask AP 39.0 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 60.36M parameters; backbone 2.25M, 6.44G MACs at 800x1280
# The recipe is that of the detection repository of Fast-ParC's first author, without mixed
# precision: maps of 24, 32, 96 and 1280 channels, nothing frozen, BatchNorms trained. Its layer
# decay is ConvNeXt's and is left out.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = [
    "../_base_/recipes/cascade_maskrcnn_coco_3x.py",
    "../_base_/schedules/fastparc_detectors.py",
]
model = dict(
    backbone=dict(type="mmvitconv.ParCMobileNetV2", arch="1.0", out_indices=(1, 2, 4, 7)),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
optim_wrapper = _base_.no_flat_decay
