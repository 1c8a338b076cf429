# Mask R-CNN with 96 channels and few proposals, for objects of about 24 pixels on a CPU. Set
# `backbone` and `neck`.
_base_ = "./maskrcnn_fpn.py"
model = dict(
    neck=dict(out_channels=96),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(scales=[4]),
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
