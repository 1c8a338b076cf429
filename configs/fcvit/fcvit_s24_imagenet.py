# FCViT-s24 on ImageNet-1k: 310 epochs, batch 8 x 128.
#
# Command:   bash tools/dist_train.sh configs/fcvit/fcvit_s24_imagenet.py 8
# Published: top-1 82.5 at 224 (README of the original repository, github.com/ma-xu/FCViT)
# Measured:  not trained here; model 26.96M parameters; backbone 26.45M, 5.06G MACs at 224x224
_base_ = "./fcvit_s12_imagenet.py"
model = dict(backbone=dict(arch="s24"))
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(  # 224 / 0.95
        type="ResizeEdge", scale=236, edge="short", backend="pillow", interpolation="bicubic"
    ),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
