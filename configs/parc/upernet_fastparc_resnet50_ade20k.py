# UperNet on ResNet50 with early ParC on ADE20K: 160k iterations, batch 8 x 2.
#
# Command:   bash tools/dist_train.sh configs/parc/upernet_fastparc_resnet50_ade20k.py 8
# Published: nothing: Fast-ParC's variants and recipes could not be read; design and recipe are ours
# Measured:  not trained here; model 66.83M parameters; backbone 23.84M, 31.82G MACs at 512x512
# The recipe is that of the baseline, but nothing is frozen.
# Starts from: random weights; those of fastparc_resnet50_imagenet are better: --weights FILE
_base_ = ["./upernet_resnet50_ade20k.py", "../_base_/backbones/fastparc_resnet50.py"]
model = dict(
    backbone=dict(_base_.fastparc_resnet50, _delete_=True),
)
