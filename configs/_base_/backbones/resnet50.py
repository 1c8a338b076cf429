# ResNet50, the baseline of ParC-ResNet50, under detectors and segmentors.
resnet50 = dict(
    type="mmpretrain.ResNet",
    depth=50,
    out_indices=(0, 1, 2, 3),
    frozen_stages=1,
    norm_eval=True,
)
