# ResNet50 with early ParC under detectors and segmentors.
fastparc_resnet50 = dict(
    type="mmvitconv.WithParC",
    stages=(0, 1),  # of strides 4 and 8: long axes, where spectra pay
    backbone=dict(
        type="mmpretrain.ResNet",
        depth=50,
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
    ),
)
