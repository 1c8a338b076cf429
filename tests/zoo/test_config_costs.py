"""Configs of all three tasks, with small heads where a full one would take long."""

import pytest
import torch
from mmengine.config import Config

from mmvitconv.errors import UserError
from mmvitconv.registry import MODELS
from mmvitconv.zoo.config_costs import count_config
from mmvitconv.zoo.costs import Macs, count_complexity

CONFIGS = "configs/fcvit"


def on_meta(out_indices, shape):
    with torch.device("meta"):
        backbone = MODELS.build(
            {"type": "mmvitconv.FCViT", "arch": "tiny", "out_indices": out_indices}
        )
        return count_complexity(backbone, torch.empty(1, 3, *shape)).macs


def parts_of(result):
    return {part.name: part for part in result.parts}


@pytest.mark.parametrize(
    ("name", "shape", "out_indices", "names"),
    [
        ("fcvit_tiny_imagenet", None, (3,), {"backbone", "head"}),
        ("upernet_fcvit_tiny_nuclei", (64, 96), (0, 1, 2, 3), {"backbone", "decode_head"}),
        ("retinanet_fcvit_tiny_trees", (64, 96), (1, 2, 3), {"backbone", "neck", "bbox_head"}),
        (
            "maskrcnn_fcvit_tiny_nuclei",
            (64, 96),
            (0, 1, 2, 3),
            {"backbone", "neck", "rpn_head", "roi_head"},
        ),
    ],
)
def test_every_task(name, shape, out_indices, names):
    cfg = Config.fromfile(f"{CONFIGS}/{name}.py")
    result = count_config(cfg, shape)
    parts = parts_of(result)
    assert {part for part in parts if parts[part].macs.total} == names
    assert result.shape == (shape or (224, 224))
    assert parts["backbone"].macs == on_meta(out_indices, result.shape)
    assert sum(part.params for part in result.parts) == result.model.params
    columns = zip(*(part.macs for part in result.parts), strict=True)
    assert Macs(*map(sum, columns)) == result.model.macs
    assert not result.model.uncounted
    assert count_config(cfg, shape) == result


def test_two_stage_detectors_get_all_proposals_whatever_the_weights_propose():
    cfg = Config.fromfile(f"{CONFIGS}/maskrcnn_fcvit_tiny_coco.py")
    costs = {}
    for count in (200, 400):
        cfg.model.test_cfg.rpn.max_per_img = count
        result = count_config(cfg, (64, 64))
        assert any(f"{count} proposals" in note for note in result.notes)
        costs[count] = result.model.by_module["roi_head.bbox_head"].total
    # two hidden layers of 1024 on 7 x 7 x 256, then 80 classes and background, 80 boxes
    assert costs[200] == 200 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    assert costs[400] == 2 * costs[200]


def test_weights_are_never_read(tmp_path):
    cfg = Config.fromfile(f"{CONFIGS}/fcvit_tiny_imagenet.py")
    missing = str(tmp_path / "missing.pth")
    cfg.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": missing}
    cfg.load_from = missing
    assert count_config(cfg, (32, 32)).model.params == 4_784_752
    assert cfg.model.backbone.init_cfg.checkpoint == missing


def shape_of(**cfg):
    """The default shape of a config around a backbone that is measured nowhere."""
    from mmvitconv.zoo.loading import default_shape

    return default_shape(Config({"model": {}, **cfg}))


def pipeline(*steps):
    return {"dataset": {"type": "RepeatDataset", "dataset": {"pipeline": list(steps)}}}


@pytest.mark.parametrize(
    ("cfg", "shape"),
    [
        ({"default_scope": "mmdet"}, (800, 1280)),
        (
            {
                "default_scope": "mmdet",
                "test_dataloader": pipeline({"type": "Resize", "scale": (1333, 800)}),
            },
            (800, 1280),
        ),
        (
            {
                "default_scope": "mmdet",
                "test_dataloader": pipeline({"type": "mmdet.Resize", "scale": (256, 192)}),
            },
            (192, 256),
        ),
        ({"default_scope": "mmseg"}, (512, 512)),
        (
            {
                "default_scope": "mmseg",
                "model": {"data_preprocessor": {"size": (128, 256)}},
            },
            (128, 256),
        ),
        ({"default_scope": "mmpretrain"}, (224, 224)),
        (
            {
                "default_scope": "mmpretrain",
                "test_dataloader": pipeline(
                    {"type": "ResizeEdge", "scale": 320}, {"type": "CenterCrop", "crop_size": 288}
                ),
            },
            (288, 288),
        ),
        (
            {
                "default_scope": "mmpretrain",
                "test_dataloader": pipeline({"type": "Resize", "scale": (64, 32)}),
            },
            (32, 64),
        ),
    ],
)
def test_default_shape(cfg, shape):
    assert shape_of(**cfg) == shape


@pytest.mark.parametrize(
    ("cfg", "shape", "words"),
    [
        ({"model": {}}, None, "default_scope=None"),
        ({"default_scope": "mmdet"}, None, "no model"),
        ({"default_scope": "mmdet", "model": {"type": "X"}}, (0, 5), r"\(0, 5\)"),
    ],
)
def test_mistakes_are_named(cfg, shape, words):
    with pytest.raises(UserError, match=words):
        count_config(Config(cfg), shape)
