# UperNet with ConvMixer-1536/20 in patches of 8 on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/upernet_convmixer_1536_20_ade20k.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 101.80M parameters; backbone 50.16M, 204.67G MACs at 512x512
# Start from ImageNet weights (original or converted file; the stem is resized from patches of 7):
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/tasks/segmentation.py",
]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),  # maps that end where the image does
    backbone=dict(
        type="mmvitconv.ConvMixer",
        arch="1536_20",
        patch_size=8,  # strides of powers of two
        norm_eval=True,  # statistics of two images are too noisy; from scratch give SyncBN
        with_cp=True,
    ),
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=1536, patch_size=8, mode="taps"),
    decode_head=dict(in_channels=[1536] * 4),
    auxiliary_head=dict(in_channels=1536),
)
