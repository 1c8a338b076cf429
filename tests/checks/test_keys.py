"""Keys and types that nothing reads or has."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.keys import check_keys
from mmvitconv.engine.configuration import find_class, legal_arguments, load_config
from mmvitconv.resources import find_config

DETECTOR = "maskrcnn_fcvit_tiny_nuclei"
SEGMENTOR = "upernet_fcvit_tiny_nuclei"
CLASSIFIER = "fcvit_tiny_mnist"
SHIPPED = sorted(
    str(path)
    for path in find_config(DETECTOR).parents[1].glob("*/*.py")
    if path.parent.name != "_base_"
)


def look(cfg, splits=("train", "val", "test")):
    report = Report()
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        check_keys(report, cfg, splits)
    return report


SLIPS = [
    (DETECTOR, "model.bacbone", {}, "did you mean 'backbone'"),
    (DETECTOR, "model.backbone.frozen_stage", 2, "did you mean 'frozen_stages'"),
    (DETECTOR, "model.backbone.type", "mmvitconv.FCVIT", "did you mean 'mmvitconv.FCViT'"),
    (DETECTOR, "model.backbone.type", "FCViT", "did you mean 'mmvitconv.FCViT'"),
    (DETECTOR, "model.rpn_head.anchor_generator.stride", [4], "did you mean 'strides'"),
    (DETECTOR, "model.train_cfg.rpn.assigner.pos_iou_th", 0.5, "did you mean 'pos_iou_thr'"),
    (DETECTOR, "model.test_cfg.rcnn.score_th", 0.5, "did you mean 'score_thr'"),
    (DETECTOR, "model.test_cfg.rcnn.nms.iou_treshold", 0.5, "did you mean 'iou_threshold'"),
    (DETECTOR, "train_dataloader.batchsize", 2, "did you mean 'batch_size'"),
    (DETECTOR, "train_dataloader.sampler.type", "DefautSampler", "did you mean 'DefaultSampler'"),
    (DETECTOR, "train_dataloader.dataset.filter_cfg.filter_empty_gts", 1, "'filter_empty_gt'"),
    (DETECTOR, "train_dataloader.dataset.data_prefix.imgs", "", "did you mean 'img'"),
    (DETECTOR, "train_dataloader.dataset.pipeline.0.to_float", True, "'to_float32'"),
    (DETECTOR, "optim_wrapper.type", "AmpOptimWraper", "did you mean 'AmpOptimWrapper'"),
    (DETECTOR, "optim_wrapper.accumulative_count", 2, "did you mean 'accumulative_counts'"),
    (DETECTOR, "optim_wrapper.optimizer.type", "AdmW", "did you mean 'AdamW'"),
    (DETECTOR, "optim_wrapper.optimizer.weight_decy", 0.1, "did you mean 'weight_decay'"),
    (DETECTOR, "optim_wrapper.clip_grad.max_nrm", 5, "did you mean 'max_norm'"),
    (DETECTOR, "optim_wrapper.paramwise_cfg.norm_decay_mul", 0.0, "'norm_decay_mult'"),
    (SEGMENTOR, "param_scheduler.0.type", "LinearRL", "did you mean 'LinearLR'"),
    (SEGMENTOR, "default_hooks.checkpoint.max_keep_ckpt", 1, "did you mean 'max_keep_ckpts'"),
    (SEGMENTOR, "custom_hooks", [{"type": "EMAHok"}], "did you mean 'EMAHook'"),
    (SEGMENTOR, "val_evaluator.iou_metric", ["mIoU"], "did you mean 'iou_metrics'"),
    (SEGMENTOR, "model.decode_head.loss_decode.use_sigmod", True, "'use_sigmoid'"),
    (CLASSIFIER, "model.head.num_class", 10, "did you mean 'num_classes'"),
    (CLASSIFIER, "model.type", "Nothing1234", "is the package that has it installed"),
    (CLASSIFIER, "train_cfg.val_intervall", 1, "did you mean 'val_interval'"),
    (CLASSIFIER, "randomness", {"sed": 0}, "did you mean 'seed'"),
]


@pytest.mark.parametrize(("name", "key", "value", "words"), SLIPS, ids=[slip[1] for slip in SLIPS])
def test_slips_are_named(name, key, value, words):
    cfg = load_config(name)
    cfg.merge_from_dict({key: value})
    (sentence,) = look(cfg, ("train", "val")).sentences()
    assert words in sentence
    place = sentence.partition(": ")[0]
    assert place.startswith(key) or place == f"{key}.0.type"


def test_shipped_configs_have_no_slip():
    for path in SHIPPED:
        report = look(load_config(path))
        assert (report.errors, report.warnings) == ({}, {}), path
    assert len(SHIPPED) > 200


def test_groups_of_parameters():
    cfg = load_config(DETECTOR)
    keys = {"bakbone": {"lr_mult": 0.1}, "backbone": {"lr_mult": 0.1}, ".absolute_pos": {}}
    cfg.merge_from_dict({"optim_wrapper.paramwise_cfg": {"custom_keys": keys}})
    report = look(cfg)
    assert report.errors == {}
    (sentence,) = report.sentences("warnings")
    assert "custom_keys.bakbone:" in sentence
    assert "did you mean 'backbone'" in sentence


class Swallowing:
    """Of somebody else: what it takes is known to itself only."""

    def __init__(self, width=1, **others):
        self.others = dict(others)


class Base:
    def __init__(self, depth=1):
        self.depth = depth


class Passing(Base):
    def __init__(self, width=1, **others):
        super().__init__(**others)


class Using(Base):
    def __init__(self, width=1, **others):
        super().__init__()
        self.made = dict(**others)


class Losing:
    """Has a place for what it does not know, and never looks there."""

    def __init__(self, width=1, **others):
        self.width = width


def test_a_misspelling_that_is_never_looked_at():
    (sentence,) = look(Config({"tta_model": {"type": Losing, "widht": 2}})).sentences()
    assert sentence == "tta_model.widht: Losing has no 'widht': did you mean 'width'?"


@pytest.mark.parametrize(
    ("kind", "legal"),
    [
        (Swallowing, None),
        (Base, {"depth"}),
        (Passing, {"width", "depth"}),
        (Using, None),
        (Losing, None),
    ],
)
def test_what_a_class_takes(kind, legal):
    assert legal_arguments(kind) == legal


@pytest.mark.parametrize(
    "node",
    [
        {"type": Swallowing, "widht": 2},
        {"type": Using, "widht": 2},
        {"type": Losing, "length": 2},
        {"type": "mmdet.ResNet", "norm_cfg": {"type": "BN", "requires_grad": False}},
        {"unknown": {"strange": 1}},
    ],
)
def test_what_is_unknown_is_not_judged(node):
    assert look(Config({"default_scope": "mmdet", "tta_model": {"inner": node}})).errors == {}


def test_transforms_of_another_library():
    step = {"type": "Albu", "transforms": [{"type": "HueSaturationValue", "p": 0.1}]}
    loader = {"dataset": {"type": "CocoDataset", "pipeline": [step]}}
    assert look(Config({"default_scope": "mmdet", "train_dataloader": loader})).errors == {}


def test_others_constructors_have_their_options():
    options = {"decay_rate": 0.9, "num_layers": 6}
    for constructor, count in (("TheirConstructor", 0), ("DefaultOptimWrapperConstructor", 2)):
        wrapper = {"constructor": constructor, "paramwise_cfg": options}
        assert len(look(Config({"optim_wrapper": wrapper})).errors) == count


def test_only_what_is_used_is_judged():
    cfg = Config({"test_dataloader": {"batchsize": 1}, "optim_wrapper": {"optimzer": {}}})
    assert len(look(cfg, ("val",)).errors) == 0
    report = look(cfg, ("train", "test"))
    assert len(report.errors) == len(report.warnings) == 1
    assert len(look(cfg, ("test",)).errors) == 1


def test_a_type_is_never_imported_as_a_module(tmp_path: Path, monkeypatch):
    """MMEngine runs a module of the name that no registry has."""
    (tmp_path / "not_a_class.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_class("not_a_class", "mmdet") is None
    assert "not_a_class" not in sys.modules
    assert find_class("torch.nn.Linear", None) is not None
    assert find_class("mmvitconv.NoSuchClass", "mmdet") is None
    assert find_class("Linear", None) is MODELS.get("Linear")
