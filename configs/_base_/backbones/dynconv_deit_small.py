# DynConvViT-small with LN+ReLU under detectors and segmentors, and what its recipes do not decay.
_base_ = "../schedules/dynconv_no_decay.py"
dynconv_deit_small = dict(
    type="mmvitconv.DynConvViT",
    arch="small",
    out_indices=(2, 5, 8, 11),
    drop_path_rate=0.1,
    mixer="ln_relu",
)
