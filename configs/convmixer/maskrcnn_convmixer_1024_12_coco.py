# Mask R-CNN with ConvMixer-1024/12 in patches of 8 on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/convmixer/maskrcnn_convmixer_1024_12_coco.py 8
# Published: nothing: the authors never tried dense prediction; pyramid and recipe are ours
# Measured:  not trained here; model 38.79M parameters; backbone 13.64M, 217.06G MACs at 800x1280
# Starts from: random weights, as none are published; else --weights FILE
_base_ = "./maskrcnn_convmixer_768_32_coco.py"
model = dict(
    backbone=dict(arch="1024_12", init_cfg=None),
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=1024, patch_size=8, mode="taps"),
        dict(type="FPN", in_channels=[1024] * 4, out_channels=256, num_outs=5),
    ],
)
