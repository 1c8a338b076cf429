# DINO with ConvMixer-768/32 on COCO: 12 epochs, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/dino_convmixer_768_32_coco.py 8
# Published: nothing: this detector is ours; its recipe is mmdet's DINO with four scales
# Measured:  not trained here; model 41.29M parameters; backbone 20.38M, 323.62G MACs at 800x1280
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 7)
_base_ = ["../_base_/recipes/dino_coco_1x.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    backbone=_base_.convmixer_768_32,
    neck=[
        dict(
            type="mmvitconv.IsotropicPyramid",
            in_channels=768,
            patch_size=8,
            mode="taps",
            out_indices=(1, 2, 3),
        ),
        dict(
            type="ChannelMapper",
            in_channels=[768] * 3,
            kernel_size=1,
            out_channels=256,
            act_cfg=None,
            norm_cfg=dict(type="GN", num_groups=32),
            num_outs=4,
        ),
    ],
)
