# DeepLabv3 with ParC-Net-S on PASCAL VOC 2012 alone: 50 epochs at 512x512, batch 4 x 8.
#
# Command:   bash tools/dist_train.sh configs/parc/deeplabv3_parcnet_s_no_coco_voc.py 4
# Published: nothing: the authors train with COCO's images, too
# Measured:  not trained here; model 5.82M parameters; backbone 4.29M, 8.24G MACs at 512x512
# The recipe of deeplabv3_parcnet_s_voc.py without COCO's images.
# Starts from: mmvitconv://parcnet_s (ImageNet); else --weights FILE or --from-scratch
_base_ = ["./deeplabv3_parcnet_s_voc.py"]
train_dataloader = dict(dataset=dict(datasets=_base_.train_dataloader.dataset.datasets[:2]))
