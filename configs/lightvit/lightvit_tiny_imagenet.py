# LightViT-tiny on ImageNet-1k: 300 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/lightvit/lightvit_tiny_imagenet.py 8
# Published: top-1 78.7, top-5 94.4 at 224 (paper and README of github.com/hunto/LightViT)
# Measured:  not trained here; model 9.38M parameters; backbone 7.77M, 0.76G MACs at 224x224
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224_rand_m9.py",
    "../_base_/schedules/imagenet_300e_warmup20.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    # All rows, those of the global tokens included: the neck takes their mean.
    backbone=dict(
        type="mmvitconv.LightViT", arch="tiny", out_indices=(2,), drop_path_rate=0.1, out_type="raw"
    ),
    neck=dict(type="mmvitconv.LightViTPooling", in_channels=256),
    head=dict(in_channels=1280, init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02)),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)]),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.04),
    paramwise_cfg=dict(  # not decayed besides biases and norms, which have one dimension
        custom_keys={
            "patch_embed.global_token": dict(decay_mult=0.0),
            "attn.relative_position_bias_table": dict(decay_mult=0.0),
        }
    ),
)
randomness = dict(seed=42, diff_rank_seed=True)
