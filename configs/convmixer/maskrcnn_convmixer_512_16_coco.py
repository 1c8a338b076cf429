# Mask R-CNN with ConvMixer-512/16 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/maskrcnn_convmixer_512_16_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 26.35M parameters; backbone 4.87M, 77.07G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./maskrcnn_convmixer_768_32_coco.py"
model = dict(
    backbone=dict(arch="512_16", init_cfg=None),
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=512, patch_size=8, mode="taps"),
        dict(type="FPN", in_channels=[512] * 4, out_channels=256, num_outs=5),
    ],
)
