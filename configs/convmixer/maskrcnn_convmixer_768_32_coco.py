# Mask R-CNN with ConvMixer-768/32 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/maskrcnn_convmixer_768_32_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 43.43M parameters; backbone 20.38M, 323.62G MACs at 800x1280
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch
#   (the stem is resized from patches of 7)
_base_ = ["../_base_/recipes/maskrcnn_coco_1x.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    # Strides of powers of two. Statistics of two images are too noisy; from scratch give SyncBN.
    backbone=_base_.convmixer_768_32,
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=768, patch_size=8, mode="taps"),
        dict(type="FPN", in_channels=[768] * 4, out_channels=256, num_outs=5),
    ],
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
