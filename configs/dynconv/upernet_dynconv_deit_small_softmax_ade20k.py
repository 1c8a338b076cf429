# UperNet on DeiT-small on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_deit_small_softmax_ade20k.py 8
# Published: nothing: recipe and baseline are ours
# Measured:  not trained here; model 53.55M parameters; backbone 21.67M, 31.72G MACs at 512x512
# A baseline of ours: softmax in the recipe of the other mixers.
# Starts from: random weights; those of dynconv_deit_small_softmax_imagenet are better: --weights
#   FILE (mmvitconv://deit_small fits too, but has a class token, which is dropped)
_base_ = "./upernet_dynconv_deit_small_lnrelu_ade20k.py"
model = dict(backbone=dict(mixer="deit"))
