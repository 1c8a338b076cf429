# FCViT-S12 under detectors and segmentors.
fcvit_s12 = dict(
    type="mmvitconv.FCViT",
    arch="s12",
    layer_scale_init_value=1e-6,
    init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://fcvit_s12"),
)
