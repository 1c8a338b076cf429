"""Pictures, predictions and test-time augmentation of a detector and a segmentor."""

import json
import pickle
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmvitconv.cli import run
from mmvitconv.engine.tasks import enable_pictures, enable_test_time_augmentation
from mmvitconv.errors import UserError

COMMON = """
backbone = dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8,
                out_indices=(0, 1, 2, 3))
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.001))
custom_hooks = []
"""

DETECTOR = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet', backbone=backbone,
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=1, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
            strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0,
                  nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
dataset = dict(
    type='CocoDataset', data_root={data!r}, ann_file='boxes.json', data_prefix=dict(img='images/'),
    metainfo=dict(classes=('thing',)),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
              dict(type='PackDetInputs')])
test_dataset = dict(
    type='CocoDataset', data_root={data!r}, ann_file='boxes.json', data_prefix=dict(img='images/'),
    metainfo=dict(classes=('thing',)), test_mode=True,
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64)),
              dict(type='LoadAnnotations', with_bbox=True),
              dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape',
                                                    'img_shape', 'scale_factor'))])
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=test_dataset,
                       sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='CocoMetric', ann_file={data!r} + '/boxes.json', metric='bbox')
default_hooks = dict(visualization=dict(type='DetVisualizationHook'))
visualizer = dict(type='DetLocalVisualizer', name='visualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
"""

SEGMENTOR = """
visualizer = dict(type='SegLocalVisualizer', name='visualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder', backbone=backbone,
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 48), seg_pad_val=255),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_convs=1,
                     num_classes=2, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
dataset = dict(
    type='BaseSegDataset', data_root={data!r},
    data_prefix=dict(img_path='images', seg_map_path='maps'), img_suffix='.png',
    metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [255, 0, 0]]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
              dict(type='PackSegInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dataset,
                       sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""


def write_data(folder: Path) -> None:
    """Two images with one bright square, as COCO json and as label maps."""
    generator = np.random.default_rng(0)
    for name in ("images", "maps"):
        (folder / name).mkdir()
    images, boxes = [], []
    for index in range(2):
        pixels = generator.integers(0, 90, (32, 48, 3), dtype=np.uint8)
        label = np.zeros((32, 48), np.uint8)
        pixels[8:24, 4:20], label[8:24, 4:20] = 220, 1
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        Image.fromarray(label).save(folder / "maps" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 48, "height": 32})
        box = {"bbox": [4, 8, 16, 16], "area": 256, "category_id": 1, "iscrowd": 0}
        boxes.append({"id": index + 1, "image_id": index, **box})
    categories = [{"id": 1, "name": "thing"}]
    content = {"info": {}, "images": images, "annotations": boxes, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("runner_state")
@pytest.mark.parametrize("text", [DETECTOR, SEGMENTOR], ids=["detector", "segmentor"])
def test_training_then_testing_with_everything(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    name = "boxes" if text is DETECTOR else "maps"
    config = tmp_path / f"{name}.py"
    config.write_text(COMMON + text.format(data=str(tmp_path)))
    work = ["--work-dir", str(tmp_path / "work")]
    assert run("train", str(config), *work) == 0, capsys.readouterr().err
    checkpoint = str(tmp_path / "work" / "epoch_1.pth")
    for number, extra in enumerate(([], ["--tta"])):
        config = config.rename(tmp_path / f"{name}_{number}.py")  # runs are told apart by name
        out, pictures = tmp_path / f"{number}.pkl", tmp_path / f"pictures{number}"
        arguments = [str(config), checkpoint, *work, *extra, "--out", str(out)]
        arguments += ["--show-dir", str(pictures)]
        arguments += ["--cfg-options", f"visualizer.name=test{number}"]  # it outlives its run
        code = run("test", *arguments)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        assert len(pickle.loads(out.read_bytes())) == 2
        assert f"pictures: 2 in {pictures}" in printed.out
        assert ("coco/bbox_mAP: " if text is DETECTOR else "mIoU: ") in printed.out


def make_config(scope: str) -> Config:
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (64, 32)},
        {"type": "LoadAnnotations"},
        {"type": "PackDetInputs", "meta_keys": ("img_id",)},
    ]
    return Config(
        {
            "default_scope": scope,
            "model": {"type": "X"},
            "test_dataloader": {"dataset": {"dataset": {"pipeline": pipeline}}},
        }
    )


def test_mirrored_pipeline_of_a_wrapped_dataset() -> None:
    cfg = make_config("mmdet")
    enable_test_time_augmentation(cfg)
    assert cfg.model.type == "DetTTAModel"
    assert cfg.model.module == {"type": "X"}
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    assert [step.type for step in pipeline] == ["LoadImageFromFile", "Resize", "TestTimeAug"]
    flips, annotations, pack = pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [0.0, 1.0]
    assert annotations[0].type == "LoadAnnotations"
    assert pack[0].meta_keys == ("img_id", "flip", "flip_direction")


def test_own_augmentation_is_kept() -> None:
    cfg = make_config("mmseg")
    own = [{"type": "Own"}]
    cfg.tta_pipeline, cfg.tta_model = deepcopy(own), {"type": "mmseg.SegTTAModel", "a": 1}
    enable_test_time_augmentation(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline == own
    assert cfg.model.a == 1


def test_masks_cannot_be_merged() -> None:
    cfg = make_config("mmdet")
    cfg.model.roi_head = {"mask_head": {"type": "FCNMaskHead"}}
    with pytest.raises(UserError, match="instance masks"):
        enable_test_time_augmentation(cfg)


def test_scope_of_another_package() -> None:
    cfg = make_config("mmpose")
    with pytest.raises(UserError, match=r"default_scope .* got 'mmpose'"):
        enable_pictures(cfg, "pictures")
