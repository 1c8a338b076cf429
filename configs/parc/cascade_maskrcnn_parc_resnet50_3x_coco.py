# Cascade Mask R-CNN with ParC-ResNet50 on COCO: 3x, several scales, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/cascade_maskrcnn_parc_resnet50_3x_coco.py 8
# Published: box AP 48.1, mask AP 41.8 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 80.41M parameters; backbone 21.69M, 103.79G MACs at 800x1280
# The recipe is that of the detection repository of Fast-ParC's first author, without mixed
# precision: stem and first stage frozen, statistics of BatchNorms kept. Its layer decay is
# ConvNeXt's and is left out.
# Starts from: random weights, as none are published; else --weights FILE
_base_ = [
    "../_base_/recipes/cascade_maskrcnn_coco_3x.py",
    "../_base_/schedules/fastparc_detectors.py",
]
model = dict(
    backbone=dict(type="mmvitconv.ParCResNet", arch="50", frozen_stages=0, norm_eval=True),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
optim_wrapper = _base_.no_flat_decay
