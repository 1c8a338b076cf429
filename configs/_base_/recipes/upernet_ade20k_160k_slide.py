# UPerNet on ADE20K as ConvNeXt's authors train and test it: AdamW with a rate of 1e-4, windows of
# 512x512. Set `backbone`, `in_channels` of both heads and the rates of the stages.
_base_ = "./upernet_ade20k_160k.py"
model = dict(test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(optimizer=dict(lr=1e-4 * (8 * 2) / 16, weight_decay=0.05))
