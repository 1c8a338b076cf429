# ParC-ConvNeXt-XT on ImageNet-1k: 300 epochs, batch 8 x 256, of which two make a step.
#
# Command:   bash tools/dist_train.sh configs/parc/parc_convnext_xt_imagenet.py 8
# Published: top-1 78.3 at 224 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 7.41M parameters; backbone 7.03M, 1.14G MACs at 224x224
# ConvNeXt's recipe, as the authors say; batch, rate, stochastic depth and averaging of weights are
# those of an earlier script of Fast-ParC's first author.
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224_bicubic.py",
    "../_base_/schedules/imagenet_300e_batch4096.py",
    "../_base_/tasks/classification.py",
]
model = dict(
    backbone=dict(
        type="mmvitconv.ParCConvNeXt",
        arch="xt",
        out_indices=(3,),
        drop_path_rate=0.1,
        gap_before_final_norm=True,  # so there is nothing left for a neck to pool
    ),
    neck=None,
    head=dict(in_channels=384, init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02)),
)
train_dataloader = dict(batch_size=256)
