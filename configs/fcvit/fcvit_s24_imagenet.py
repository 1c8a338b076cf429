# FCViT-s24 on ImageNet-1k: 310 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fcvit_s24_imagenet.py 8
# Published: top-1 82.5 at 224 (README of github.com/ma-xu/FCViT)
# Measured:  not trained here; model 26.96M parameters; backbone 26.45M, 5.06G MACs at 224x224
# The authors train with mixed precision: add --amp to the command.
_base_ = "./fcvit_s12_imagenet.py"
model = dict(backbone=dict(arch="s24"))
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=236),  # 224 / 0.95
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
