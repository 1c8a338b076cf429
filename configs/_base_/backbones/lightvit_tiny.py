# LightViT-tiny under detectors and segmentors, and what LightViT's recipes do not decay.
_base_ = "../schedules/lightvit_no_decay.py"
lightvit_tiny = dict(
    type="mmvitconv.LightViT",
    arch="tiny",
    drop_path_rate=0.1,
    norm_eval=True,  # the statistics of the stem's BatchNorms stay
    init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://lightvit_tiny"),
)
