# Semantic FPN on Swin-tiny on ADE20K: 40k iterations, batch 8 x 4.
#
# Command:   bash tools/dist_train.sh configs/dynconv/fpn_dynconv_swin_tiny_softmax_ade20k.py 8
# Published: nothing: the recipe is FCViT's
# Measured:  not trained here; model 31.89M parameters; backbone 27.52M, 25.02G MACs at 512x512
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./fpn_dynconv_swin_tiny_lnrelu_ade20k.py"
model = dict(
    backbone=dict(
        mixer="swin", init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny")
    ),
)
