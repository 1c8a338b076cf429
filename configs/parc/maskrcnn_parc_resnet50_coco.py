# Mask R-CNN with ParC-ResNet50 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_parc_resnet50_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN, 3x
# Measured:  not trained here; model 42.58M parameters; backbone 21.69M, 103.79G MACs at 800x1280
# Ours: Mask R-CNN and the 1x schedule. From the Cascade R-CNN recipe of Fast-ParC's first author:
# AdamW 2e-4, weight decay 0.05 (not of biases and one-dimensional parameters), stem and first stage
# frozen, statistics of BatchNorms kept. Its layer decay is ConvNeXt's and is left out.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/schedules/fastparc_detectors.py"]
model = dict(
    backbone=dict(type="mmvitconv.ParCResNet", arch="50", frozen_stages=0, norm_eval=True),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
optim_wrapper = _base_.no_flat_decay
