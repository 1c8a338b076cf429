# ConvNeXt-tiny with early ParC under detectors and segmentors.
fastparc_convnext_tiny = dict(
    type="mmvitconv.WithParC",
    stages=(0, 1),  # of strides 4 and 8: long axes, where spectra pay
    backbone=dict(
        type="mmpretrain.ConvNeXt",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
)
