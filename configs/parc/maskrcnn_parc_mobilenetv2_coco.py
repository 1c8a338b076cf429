# Mask R-CNN with ParC-MobileNetV2 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_mobilenetv2_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN, 3x
# Measured:  not trained here; model 22.52M parameters; backbone 2.25M, 6.44G MACs at 800x1280
# Ours: Mask R-CNN and the 1x schedule. From the Cascade R-CNN recipe of Fast-ParC's first author:
# AdamW 2e-4, weight decay 0.05, maps of 24, 32, 96 and 1280 channels. Its layer decay is ConvNeXt's
# and is left out; of BatchNorm it says nothing here.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "../_base_/recipes/maskrcnn_coco_1x.py"
model = dict(
    backbone=dict(
        type="mmvitconv.ParCMobileNetV2",
        arch="1.0",
        out_indices=(1, 2, 4, 7),
        norm_eval=True,  # statistics of two images are too noisy; from scratch give SyncBN
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4 * (8 * 2) / 16), paramwise_cfg=dict(norm_decay_mult=0.0)
)
