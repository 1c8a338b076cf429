# Mask R-CNN with ConvMixer-768/32 on COCO: 100 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/maskrcnn_convmixer_768_32_lsj_100e_coco.py 8
# Published: nothing: this recipe is ours: large-scale jitter and 100 epochs, as ViTDet's
# Measured:  not trained here; model 43.43M parameters; backbone 20.38M, 323.62G MACs at 800x1280
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 7)
_base_ = ["../_base_/recipes/maskrcnn_coco_lsj_100e.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    backbone=_base_.convmixer_768_32,
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=768, patch_size=8, mode="taps"),
        dict(type="FPN", in_channels=[768] * 4, out_channels=256, num_outs=5),
    ],
)
