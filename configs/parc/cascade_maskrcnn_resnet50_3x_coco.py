# Cascade Mask R-CNN with ResNet50, ParC's baseline, on COCO: 3x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/cascade_maskrcnn_resnet50_3x_coco.py 8
# Published: box AP 47.5, mask AP 41.1 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 82.23M parameters; backbone 23.51M, 83.41G MACs at 800x1280
# The recipe is that of cascade_maskrcnn_parc_resnet50_3x_coco.
# Starts from: random weights; those of resnet50_imagenet are better: --weights FILE
_base_ = ["./cascade_maskrcnn_parc_resnet50_3x_coco.py", "../_base_/backbones/resnet50.py"]
model = dict(backbone=dict(_base_.resnet50, _delete_=True))
