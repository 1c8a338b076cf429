# ConvNeXt-XT, the baseline of ParC-ConvNeXt-XT, under detectors and segmentors.
convnext_xt = dict(
    type="mmpretrain.ConvNeXt",
    arch=dict(depths=[3, 3, 9, 3], channels=[48, 96, 192, 384]),
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.1,
    layer_scale_init_value=1.0,
    gap_before_final_norm=False,
)
