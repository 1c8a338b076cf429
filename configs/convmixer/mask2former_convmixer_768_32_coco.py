# Mask2Former with ConvMixer-768/32 on COCO: 50 epochs, large-scale jitter, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/mask2former_convmixer_768_32_coco.py 8
# Published: nothing: this model is ours; its recipe is mmdet's Mask2Former, biases not decayed
# Measured:  not trained here; model 43.05M parameters; backbone 20.38M, 323.62G MACs at 800x1280
# Starts from: mmvitconv://convmixer_768_32 (ImageNet); else --weights FILE or --from-scratch (the
#   stem is resized from patches of 7)
_base_ = ["../_base_/recipes/mask2former_coco_50e.py", "../_base_/backbones/convmixer_768_32.py"]
model = dict(
    backbone=_base_.convmixer_768_32,
    neck=dict(type="mmvitconv.IsotropicPyramid", in_channels=768, patch_size=8, mode="taps"),
    panoptic_head=dict(in_channels=[768] * 4),
)
