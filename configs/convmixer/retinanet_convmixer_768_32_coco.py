# RetinaNet with ConvMixer-768/32 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/retinanet_convmixer_768_32_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 31.56M parameters; backbone 20.38M, 323.62G MACs at 800x1280
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch
#   (the stem is resized from patches of 7)
_base_ = [
    "../_base_/recipes/retinanet_coco_1x.py",
    "../_base_/backbones/convmixer_768_32.py",
    "../_base_/models/isotropic_retinanet.py",
]
model = dict(
    # Strides of powers of two. Statistics of two images are too noisy; from scratch give SyncBN.
    backbone=_base_.convmixer_768_32,
    neck=[
        dict(_base_.taps, in_channels=768, patch_size=8),
        dict(_base_.fpn, in_channels=[768] * 3),
    ],
)
