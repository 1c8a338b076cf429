# UperNet on Swin-base on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_base_softmax_ade20k.py 8
# Published: mIoU 47.99 (metafile of mmseg's Swin, mmsegmentation 1.2.2)
# Measured:  not trained here; model 121.28M parameters; backbone 86.75M, 85.36G MACs at 512x512
# A baseline of ours: softmax in the recipe of the other mixers. The figure is of mmseg's, which has
# stochastic depth of 0.3 instead of 0.2 and decays biases.
# Starts from: mmvitconv://swin_base (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_dynconv_swin_tiny_softmax_ade20k.py"
model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="mmvitconv://swin_base")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
