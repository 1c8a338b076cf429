# Mask R-CNN with ResNet50, ParC's baseline, on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/maskrcnn_resnet50_coco.py 8
# Published: nothing: the authors' detectors on COCO are Cascade Mask R-CNN, 3x
# Measured:  not trained here; model 44.40M parameters; backbone 23.51M, 83.41G MACs at 800x1280
# The recipe is that of maskrcnn_parc_resnet50_coco.
# Starts from: random weights; those of resnet50_imagenet are better: --weights FILE
_base_ = ["./maskrcnn_parc_resnet50_coco.py", "../_base_/backbones/resnet50.py"]
model = dict(backbone=dict(_base_.resnet50, _delete_=True))
