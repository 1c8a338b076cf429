# RetinaNet with MobileNetV2, ParC's baseline, on COCO: 1x, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/retinanet_mobilenetv2_coco.py 8
# Published: nothing: the authors give no RetinaNet; this is the field's standard recipe
# Measured:  not trained here; model 14.36M parameters; backbone 2.22M, 6.11G MACs at 800x1280
# The recipe is that of retinanet_parc_mobilenetv2_coco.
# Starts from: random weights; those of mobilenetv2_imagenet are better: --weights FILE
_base_ = "./retinanet_parc_mobilenetv2_coco.py"
model = dict(backbone=dict(_delete_=True, type="mmpretrain.MobileNetV2", out_indices=(2, 4, 7)))
