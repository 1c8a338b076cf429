"""Configs in the style of mmpretrain, mmdet and mmseg, with models of a few layers."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader

from mmvitconv.apis import Predictor
from mmvitconv.apis.images import build_pipeline
from mmvitconv.datasets.layout import leaf_datasets
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.resources import list_configs
from mmvitconv.zoo.loading import load_model, model_settings, read_names

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
FILE = {"type": "Pretrained", "checkpoint": "https://missing.invalid/weights.pth"}
MEAN_STD = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
LOAD = {"type": "LoadImageFromFile"}
RESNET = {"depth": 18, "base_channels": 8, "num_stages": 4, "out_indices": (0, 1, 2, 3)}


def classifier(**model: Any) -> dict[str, Any]:
    """As mmpretrain's Swin on ImageNet."""
    arch = {"embed_dims": 8, "depths": [1] * 4, "num_heads": [1] * 4}
    return {
        "default_scope": "mmpretrain",
        "data_preprocessor": {"num_classes": 1000, **MEAN_STD, "to_rgb": True},
        "model": {
            "type": "ImageClassifier",
            "backbone": {
                "type": "SwinTransformer",
                "arch": arch,
                "img_size": 32,
                "pad_small_map": True,
                "init_cfg": FILE,
            },
            "neck": {"type": "GlobalAveragePooling"},
            "head": {"type": "LinearClsHead", "num_classes": 1000, "in_channels": 64},
            "init_cfg": [
                {"type": "TruncNormal", "layer": "Linear", "std": 0.02, "bias": 0.0},
                {"type": "Constant", "layer": "LayerNorm", "val": 1.0, "bias": 0.0},
                FILE,
            ],
            **model,
        },
        "test_dataloader": {
            "dataset": {
                "type": "ImageNet",
                "data_root": "nowhere",
                "pipeline": [LOAD, {"type": "Resize", "scale": (32, 32)}, {"type": "PackInputs"}],
            }
        },
    }


def detector() -> dict[str, Any]:
    """As mmdet's RetinaNet on COCO."""
    anchors = {
        "type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 1,
        "ratios": [1.0], "strides": [8, 16, 32, 64, 128],
    }  # fmt: skip
    coder = {
        "type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4,
    }  # fmt: skip
    neck = {"in_channels": [8, 16, 32, 64], "out_channels": 8, "start_level": 1, "num_outs": 5}
    return {
        "default_scope": "mmdet",
        "data_preprocessor": {
            "type": "DetDataPreprocessor", **MEAN_STD, "bgr_to_rgb": True, "pad_size_divisor": 32,
        },
        "model": {
            "type": "RetinaNet",
            "backbone": {"type": "ResNet", **RESNET, "init_cfg": FILE},
            "neck": {"type": "FPN", **neck, "add_extra_convs": "on_input"},
            "bbox_head": {
                "type": "RetinaHead", "num_classes": 80, "in_channels": 8, "feat_channels": 8,
                "stacked_convs": 1, "anchor_generator": anchors, "bbox_coder": coder,
            },
            "test_cfg": {
                "nms_pre": 100, "min_bbox_size": 0, "score_thr": 0.0,
                "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 5,
            },
        },
        "test_dataloader": {
            "dataset": {
                "type": "CocoDataset",
                "data_root": "nowhere",
                "pipeline": [
                    LOAD,
                    {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
                    {"type": "LoadAnnotations", "with_bbox": True},
                    {"type": "PackDetInputs"},
                ],
            }
        },
    }  # fmt: skip


def segmentor() -> dict[str, Any]:
    """As mmseg's FCN on ADE20K."""
    return {
        "default_scope": "mmseg",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", **MEAN_STD, "bgr_to_rgb": True, "size": (64, 64),
        },
        "model": {
            "type": "EncoderDecoder",
            "pretrained": "open-mmlab://resnet18_v1c",
            "backbone": {"type": "ResNet", **RESNET},
            "decode_head": {
                "type": "FCNHead", "in_channels": 64, "in_index": 3, "channels": 8,
                "num_convs": 1, "num_classes": 150,
            },
            "test_cfg": {"mode": "whole"},
        },
        "test_dataloader": {
            "dataset": {
                "type": "ADE20KDataset",
                "data_root": "nowhere",
                "pipeline": [
                    LOAD,
                    {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
                    {"type": "LoadAnnotations"},
                    {"type": "PackSegInputs"},
                ],
            }
        },
    }  # fmt: skip


UPSTREAM = {"classification": classifier, "detection": detector, "segmentation": segmentor}
FIRST_CLASSES = {
    "classification": (1000, "tench, Tinca tinca"),
    "detection": (80, "person"),
    "segmentation": (150, "wall"),
}


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_checkpoint(filename: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{filename} was asked for")

    monkeypatch.setattr(CheckpointLoader, "load_checkpoint", load_checkpoint)


@pytest.mark.filterwarnings("ignore:.*weights are random")
@pytest.mark.parametrize("task", sorted(UPSTREAM))
def test_configs_of_the_task_packages(task: str) -> None:
    outside = Config(UPSTREAM[task]())
    inside = deepcopy(outside)
    inside.model.data_preprocessor = inside.pop("data_preprocessor")
    before = deepcopy(outside.to_dict())
    first, second = Predictor(outside, device="cpu"), Predictor(inside, device="cpu")
    assert outside.to_dict() == before
    mean = first.model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(MEAN_STD["mean"])
    (one,), (other,) = (predictor.predict(IMAGE) for predictor in (first, second))
    assert one.to_json() == other.to_json()
    count, name = FIRST_CLASSES[task]
    assert (first.task, len(first.classes)) == (task, count)
    assert first.classes[0] == name
    assert one.draw().shape[0] > 48


def test_only_what_reads_weights_is_left_out() -> None:
    cfg = Config(classifier(pretrained="open-mmlab://resnet18"))
    cfg.model.head.init_cfg = [FILE]
    settings = model_settings(cfg)
    assert settings.pretrained is None
    assert settings.backbone.init_cfg is None
    assert settings.head.init_cfg is None
    assert settings.init_cfg == cfg.model.init_cfg[:2]
    assert cfg.model.backbone.init_cfg == FILE
    model = load_model(cfg, device="cpu").module
    assert model.head.fc.weight.detach().std() == pytest.approx(0.02, rel=0.1)  # as init_cfg says


@pytest.mark.parametrize("seed", [0, 3])
def test_no_global_random_numbers_are_drawn(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seed_gpus(_: int) -> None:
        raise AssertionError("the generators of GPUs are seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_gpus)
    cfg = Config(classifier())
    before = torch.get_rng_state()
    model = load_model(cfg, device="cpu", seed=seed).module
    weights = model.state_dict()
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    load_model(cfg, tmp_path / "a.pth", device="cpu")
    again, other = (load_model(cfg, device="cpu", seed=seed + step).module for step in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    key = "head.fc.weight"
    assert torch.equal(again.state_dict()[key], weights[key])
    assert not torch.equal(other.state_dict()[key], weights[key])


def test_a_model_that_cannot_be_built() -> None:
    with pytest.raises(UserError, match=r"cannot be built: .*Swine"):
        Predictor(Config(classifier(backbone={"type": "Swine"})), device="cpu")


@pytest.mark.filterwarnings("ignore:.*weights are random")
def test_a_model_of_many_tasks_is_refused() -> None:
    heads = {name: {"type": "LinearClsHead", "num_classes": 3, "in_channels": 64} for name in "ab"}
    cfg = Config(classifier(head={"type": "MultiTaskHead", "task_heads": heads}))
    pack = {"type": "PackMultiTaskInputs", "multi_task_fields": ("gt_label",)}
    cfg.test_dataloader.dataset.pipeline[-1] = pack
    predictor = Predictor(cfg, device="cpu")
    with pytest.raises(UserError, match=r"ImageClassifier gives no pred_score; supported are"):
        predictor.predict(IMAGE)


@pytest.mark.filterwarnings("ignore")
def test_a_panoptic_model_is_refused() -> None:
    folder = Path(mmdet.__file__).parent / ".mim/configs/panoptic_fpn"
    cfg = load_config(folder / "panoptic-fpn_r50_fpn_1x_coco.py")
    cfg.merge_from_dict(
        {
            "model.backbone.depth": 18,
            "model.backbone.base_channels": 8,
            "model.neck.in_channels": [8, 16, 32, 64],
            "model.roi_head.bbox_head.fc_out_channels": 8,
            "test_dataloader.dataset.pipeline.1.scale": (64, 64),
        }
    )
    with pytest.raises(UserError, match=r"PanopticFPN gives no pred_instances; supported are"):
        Predictor(cfg, device="cpu").predict(IMAGE)


@pytest.mark.parametrize(
    ("scope", "kind", "count"),
    [
        ("mmpretrain", "ImageNet", 1000),
        ("mmpretrain", "CIFAR10", 10),
        ("mmdet", "CocoDataset", 80),
        ("mmseg", "ADE20KDataset", 150),
        ("mmdet", "mmseg.ADE20KDataset", 150),
        ("mmdet", "NoSuchDataset", 0),
    ],
)
def test_names_of_data_sets_without_scope(scope: str, kind: str, count: int) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        assert len(read_names(None, {"type": kind})[0]) == count


def test_names_in_lists_and_files(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("Zelle\nkernel\n", encoding="utf-8")
    named = [
        {"classes": ["Zelle", "kernel"]},
        {"classes": str(file)},
        {"metainfo": {"classes": str(file)}},
        {"metainfo": {"classes": ("Zelle", "kernel")}, "classes": ["other"]},
    ]
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        for dataset in named:
            assert read_names(None, {"type": "CustomDataset", **dataset})[0] == ("Zelle", "kernel")
        missing = {"type": "CustomDataset", "classes": str(tmp_path / "missing.txt")}
        assert read_names(None, missing) == ((), ())


@pytest.mark.parametrize("name", sorted(list_configs()))
def test_pipelines_of_shipped_configs(name: str) -> None:
    cfg = load_config(name)
    dataset = next(leaf_datasets(cfg.test_dataloader, "test_dataloader"))[1]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        loading, pipeline = build_pipeline(dataset.pipeline)
    has_files = dataset.type.rpartition(".")[2] not in ("CIFAR10", "CIFAR100")
    assert loading.channel_order == ("bgr" if has_files else "rgb")
    assert len(pipeline.transforms) >= 1


@pytest.mark.filterwarnings("ignore:.*weights are random")
def test_data_sets_of_arrays_have_red_first() -> None:
    predictor = Predictor("convmixer_256_8_cifar10", device="cpu")
    seen = []
    forward = predictor.model.backbone.forward
    predictor.model.backbone.forward = lambda x: seen.append(x) or forward(x)
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 255
    (found,) = predictor.predict(image)
    red, green, _ = seen[0].mean(dim=(0, 2, 3)).tolist()
    assert red == pytest.approx((255 - 125.307) / 63.0105, rel=1e-5)
    assert green == pytest.approx(-122.961 / 62.0925, rel=1e-5)
    assert found.draw()[-1, 0].tolist() == [255, 0, 0]
    assert predictor.classes[0] == "airplane"


@pytest.mark.filterwarnings("ignore:.*weights are random")
def test_data_sets_of_gray_arrays() -> None:
    cfg = Config(
        {
            "default_scope": "mmpretrain",
            "data_preprocessor": {"mean": [33.46], "std": [78.87], "num_classes": 10},
            "model": {
                "type": "ImageClassifier",
                "backbone": {"type": "LeNet5", "num_classes": 10},
                "head": {"type": "ClsHead"},
            },
            "test_dataloader": {
                "dataset": {
                    "type": "MNIST",
                    "pipeline": [{"type": "Resize", "scale": 32}, {"type": "PackInputs"}],
                }
            },
        }
    )
    found, _ = Predictor(cfg, device="cpu").predict([IMAGE, IMAGE])  # LeNet takes no single one
    assert found.names[0] in "0 - zero, 1 - one, 2 - two, 3 - three, 4 - four, 5 - five, 6 - six, "\
        "7 - seven, 8 - eight, 9 - nine"  # fmt: skip
    assert found.draw().shape[2] == 3
