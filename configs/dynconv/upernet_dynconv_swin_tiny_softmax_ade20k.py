# UperNet on Swin-tiny on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/dynconv/upernet_dynconv_swin_tiny_softmax_ade20k.py 8
# Published: mIoU 44.41 (metafile of mmseg's Swin, mmsegmentation 1.2.2)
# Measured:  not trained here; model 59.94M parameters; backbone 27.52M, 25.02G MACs at 512x512
# A baseline of ours: softmax in the recipe of the other mixers. The figure is of mmseg's, which has
# stochastic depth of 0.3 instead of 0.2 and decays biases.
# Starts from: mmvitconv://swin_tiny (ImageNet); else --weights FILE or --from-scratch
_base_ = "./upernet_dynconv_swin_tiny_lnrelu_ade20k.py"
model = dict(
    backbone=dict(
        mixer="swin", init_cfg=dict(type="Pretrained", checkpoint="mmvitconv://swin_tiny")
    ),
)
