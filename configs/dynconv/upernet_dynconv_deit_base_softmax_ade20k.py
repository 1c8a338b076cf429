# UperNet on DeiT-base on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_deit_base_softmax_ade20k.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 127.02M parameters; backbone 85.80M, 106.92G MACs at 512x512
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: random weights; those of dynconv_deit_base_softmax_imagenet are better: --weights
#   FILE (mmvitconv://deit_base fits too, but has a class token, which is dropped)
_base_ = "./upernet_dynconv_deit_small_lnrelu_ade20k.py"
model = dict(
    backbone=dict(arch="base", mixer="deit"),
    neck=dict(in_channels=768),
    decode_head=dict(in_channels=[768] * 4),
    auxiliary_head=dict(in_channels=768),
)
