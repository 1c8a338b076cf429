# Cascade Mask R-CNN with MobileNetV2, ParC's baseline, on COCO: 3x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/cascade_maskrcnn_mobilenetv2_3x_coco.py 8
# Published: box AP 43.7, mask AP 37.9 (README of github.com/hkzhang91/ParC-Net)
# Measured:  not trained here; model 60.33M parameters; backbone 2.22M, 6.11G MACs at 800x1280
# The recipe is that of cascade_maskrcnn_parc_mobilenetv2_3x_coco.
# Starts from: random weights; those of mobilenetv2_imagenet are better: --weights FILE
_base_ = "./cascade_maskrcnn_parc_mobilenetv2_3x_coco.py"
model = dict(backbone=dict(_delete_=True, type="mmpretrain.MobileNetV2", out_indices=(1, 2, 4, 7)))
