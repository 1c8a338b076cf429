# ParC-ConvNeXt-XT under detectors and segmentors.
parc_convnext_xt = dict(
    type="mmvitconv.ParCConvNeXt", arch="xt", drop_path_rate=0.1, layer_scale_init_value=1.0
)
