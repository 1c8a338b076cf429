# UperNet on Swin-small on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_small_softmax_ade20k.py 8
# Published: mIoU 47.72 (metafile of mmseg's Swin, mmsegmentation 1.2.2)
# Measured:  not trained here; model 81.26M parameters; backbone 48.84M, 48.39G MACs at 512x512
# A baseline of ours: softmax in the recipe of the other mixers. The figure is of mmseg's, which has
# stochastic depth of 0.3 instead of 0.2 and decays biases.
# Starts from: mmvitconv://swin_small (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_dynconv_swin_tiny_softmax_ade20k.py"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="mmvitconv://swin_small")),
)
