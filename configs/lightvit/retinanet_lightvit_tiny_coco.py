# RetinaNet with LightViT-tiny on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/lightvit/retinanet_lightvit_tiny_coco.py 8
# Published: nothing: the authors give no RetinaNet recipe; this is the field's standard one
# Measured:  not trained here; model 17.29M parameters; backbone 7.77M, 14.21G MACs at 800x1280
# Starts from: mmvitconv://lightvit_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "../_base_/recipes/retinanet_coco_1x.py"
model = dict(
    backbone=dict(
        type="mmvitconv.LightViT",
        arch="tiny",
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://lightvit_tiny"),
    ),
    neck=dict(in_channels=[64, 128, 256]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(  # not decayed: norms, global tokens, bias tables; other biases are
        custom_keys={
            "patch_embed.global_token": dict(decay_mult=0.0),
            "attn.relative_position_bias_table": dict(decay_mult=0.0),
        },
    ),
)
