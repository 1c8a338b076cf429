# The necks of a RetinaNet on a backbone of one scale: maps of its blocks, resized, and an FPN. Give
# both their channels, and the first the size of the patches.
taps = dict(
    type="mmvitconv.IsotropicPyramid",
    mode="taps",
    out_indices=(1, 2, 3),  # RetinaNet has no map of stride 4
)
fpn = dict(type="FPN", out_channels=256, add_extra_convs="on_input", num_outs=5)
