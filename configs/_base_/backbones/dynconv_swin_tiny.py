# DynConvSwin-tiny with LN+ReLU under detectors and segmentors, and what its recipes do not decay.
_base_ = "../schedules/dynconv_no_decay.py"
dynconv_swin_tiny = dict(
    type="mmvitconv.DynConvSwin", arch="tiny", drop_path_rate=0.2, mixer="ln_relu"
)
