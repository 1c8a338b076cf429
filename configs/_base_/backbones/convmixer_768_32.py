# ConvMixer-768/32 under detectors and segmentors: strides of powers of two.
convmixer_768_32 = dict(
    type="mmvitconv.ConvMixer",
    arch="768_32",
    patch_size=8,
    norm_eval=True,  # statistics of two images are too noisy; from scratch give SyncBN
    with_cp=True,
    init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://convmixer_768_32"),
)
