# ParC-Net-S under detectors and segmentors.
parcnet_s = dict(
    type="mmvitconv.ParCNet",
    arch="s",
    norm_eval=True,  # statistics of few images are too noisy; from scratch give SyncBN
    init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://parcnet_s"),
)
