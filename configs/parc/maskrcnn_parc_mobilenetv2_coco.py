# Mask R-CNN with ParC-MobileNetV2 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_mobilenetv2_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN, 3x
# Measured:  not trained here; model 22.52M parameters; backbone 2.25M, 6.44G MACs at 800x1280
# Ours: Mask R-CNN and the 1x schedule. From the Cascade R-CNN recipe of Fast-ParC's first author:
# AdamW 2e-4, weight decay 0.05 (not of biases and one-dimensional parameters), maps of 24, 32, 96
# and 1280 channels, nothing frozen, BatchNorms trained. Its layer decay is ConvNeXt's and is left
# out.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/schedules/fastparc_detectors.py"]
model = dict(
    backbone=dict(type="mmvitconv.ParCMobileNetV2", arch="1.0", out_indices=(1, 2, 4, 7)),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
optim_wrapper = _base_.no_flat_decay
