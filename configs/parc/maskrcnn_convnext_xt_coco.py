# Mask R-CNN with ConvNeXt-XT, ParC's baseline, on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_convnext_xt_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN, 3x
# Measured:  not trained here; model 27.14M parameters; backbone 7.05M, 23.34G MACs at 800x1280
# The recipe is that of maskrcnn_parc_convnext_xt_coco.
# Starts from: random weights; those of convnext_xt_imagenet are better: --weights FILE
_base_ = ["./maskrcnn_parc_convnext_xt_coco.py", "../_base_/backbones/convnext_xt.py"]
model = dict(backbone=dict(_base_.convnext_xt, _delete_=True))
optim_wrapper = dict(  # the published groups, by mmdet's constructor
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7, decay_type="layer_wise", num_layers=6),
)
