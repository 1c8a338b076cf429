# Cascade Mask R-CNN with ConvNeXt-XT, ParC's baseline, on COCO: 3x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/cascade_maskrcnn_convnext_xt_3x_coco.py 8
# Published: box AP 47.2, mask AP 41.0 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 64.98M parameters; backbone 7.05M, 23.34G MACs at 800x1280
# The recipe is that of cascade_maskrcnn_parc_convnext_xt_3x_coco.
# Starts from: random weights; those of convnext_xt_imagenet are better: --weights FILE
_base_ = ["./cascade_maskrcnn_parc_convnext_xt_3x_coco.py", "../_base_/backbones/convnext_xt.py"]
model = dict(backbone=dict(_base_.convnext_xt, _delete_=True, drop_path_rate=0.4))
optim_wrapper = dict(  # the published groups, by mmdet's constructor
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7, decay_type="layer_wise", num_layers=6),
)
