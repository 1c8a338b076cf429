import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mmvitconv.engine.configuration import (
    apply_options,
    legal_arguments,
    load_config,
)
from mmvitconv.errors import UserError
from mmvitconv.resources import resource_root


def make_config() -> Config:
    return Config(
        {
            "default_scope": "mmpretrain",
            "data_root": "data/x/",
            "model": {
                "type": "ImageClassifier",
                "backbone": {"type": "ResNet", "depth": 18, "init_cfg": None},
                "head": {
                    "type": "LinearClsHead",
                    "num_classes": 2,
                    "loss": {"type": "CrossEntropyLoss"},
                },
                "test_cfg": {"mode": "whole"},
            },
            "train_dataloader": {
                "batch_size": 2,
                "dataset": {"type": "CustomDataset", "pipeline": []},
            },
            "val_evaluator": {"data_root": "data/x/"},
            "train_cfg": {"by_epoch": True, "max_epochs": 3},
            "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.1}},
            "param_scheduler": [{"type": "LinearLR", "end": 5}],
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
            "randomness": {"seed": 0},
            "load_from": None,
        }
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.backbone.depth", 34),
        ("model.backbone.out_indices", (1, 2)),  # an argument of ResNet
        ("model.backbone.init_cfg.checkpoint", "x.pth"),  # below an argument that is None
        ("model.head.topk", (1, 5)),  # ClsHead's, through **kwargs of LinearClsHead
        ("model.head.init_cfg.type", "Normal"),
        ("model.test_cfg.crop_size", (64, 64)),  # of a dict that nobody describes
        ("train_dataloader.persistent_workers", True),
        ("train_dataloader.dataset.lazy_init", True),  # BaseDataset's
        ("train_cfg.val_interval", 2),
        ("optim_wrapper.clip_grad.max_norm", 1.0),
        ("optim_wrapper.optimizer.betas", (0.9, 0.99)),
        ("optim_wrapper.constructor", "mmvitconv.LayerDecayOptimWrapperConstructor"),
        ("param_scheduler.0.end", 7),
        ("param_scheduler.0.convert_to_iter_based", True),
        ("default_hooks.checkpoint.max_keep_ckpts", 1),
        ("default_hooks.checkpoint.priority", "LOW"),
        ("default_hooks.extra.type", "EMAHook"),
        ("randomness.deterministic", True),
        ("log_level", "ERROR"),
        ("find_unused_parameters", True),
    ],
)
def test_legal_keys_are_merged(key: str, value: object) -> None:
    cfg = make_config()
    assert apply_options(cfg, {key: value}) == []
    node = cfg
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    assert node == value


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle.backbone.depth", "has no 'modle'; did you mean 'model'"),
        ("model.backbone.depht", "ResNet below 'model.backbone' has no 'depht'; .*'depth'"),
        ("model.bakbone.depth", "'backbone'"),
        ("model.head.zzz", "LinearClsHead .* has no 'zzz'; legal are .*in_channels"),
        ("model.test_cfg.mod", "did you mean 'mode'"),
        ("train_cfg.max_epoch", "did you mean 'max_epochs'"),
        ("train_dataloader.batchsize", "did you mean 'batch_size'"),
        ("randomness.sed", "did you mean 'seed'"),
        ("optim_wrapper.optimizer.learning_rate", "AdamW .* has no 'learning_rate'"),
        ("optim_wrapper.clip_grads", "did you mean 'clip_grad'"),
        ("param_scheduler.1.end", "is a list of 1, its keys are 0 to 0, got '1'"),
        ("param_scheduler.end", "got 'end'"),
        ("model.backbone.depth.x", "model.backbone.depth is 18 and has no keys below it"),
        ("default_hooks.checkpoint.intervall", "CheckpointHook|did you mean 'interval'"),
        ("epochs", "the config has no 'epochs'"),
    ],
)
def test_wrong_keys_are_named(key: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        apply_options(make_config(), {key: 1})
    assert f"--cfg-options {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.backbone", "ResNet"),
        ("default_hooks", 1),
        ("optim_wrapper.optimizer", "AdamW"),
    ],
)
def test_a_group_of_settings_is_not_replaced_by_a_value(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{key}={value}: {key} is a group of settings"):
        apply_options(make_config(), {key: value})


def test_a_new_type_decides_about_the_other_keys() -> None:
    cfg = make_config()
    options = {
        "model.backbone.arch": "base",
        "model.backbone._delete_": True,
        "model.backbone.type": "VisionTransformer",
    }
    apply_options(cfg, options)
    assert cfg.model.backbone.arch == "base"


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("data_root", "val_evaluator.data_root instead"),
        ("backbone.depth", "set model.backbone.depth instead"),
    ],
)
def test_helper_variable_without_effect_is_reported(key: str, instead: str) -> None:
    cfg = make_config()
    cfg.backbone = cfg.model.backbone.to_dict()
    (note,) = apply_options(cfg, {key: 34})
    assert f"--cfg-options {key} has no effect" in note
    assert instead in note


class Parent:
    def __init__(self, width: int) -> None:
        self.width = width


class Child(Parent):
    def __init__(self, *args, depth: int = 1, **kwargs) -> None:
        super().__init__(*args, **kwargs)


class Open:
    def __init__(self, depth: int, **settings) -> None:
        self.settings = settings


def test_legal_arguments() -> None:
    assert legal_arguments(Child) == {"width", "depth"}
    assert legal_arguments(Open) is None
    assert legal_arguments(lambda depth, width=1: None) == {"depth", "width"}
    assert legal_arguments(lambda depth, **settings: None) is None


LAZY = "from mmengine.config import read_base\nwith read_base():\n    from "


def test_missing_config_with_a_similar_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "fcvit"
    folder.mkdir(parents=True)
    (folder / "maskrcnn_fcvit_tiny_nuclei.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"did you mean configs/fcvit/maskrcnn_fcvit_tiny_nuclei"):
        load_config("configs/maskrcnn_fcvit_tny_nuclei.py")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken.py", "model = dict(", "SyntaxError"),
        (
            "orphan.py",
            "_base_ = './missing.py'",
            "the base .*missing.py, which does not exist",
        ),
        ("itself.py", "_base_ = ['./itself.py']", "on itself: .*itself.py -> .*itself.py; take"),
        ("itself.yaml", "_base_: itself.yaml", "on itself: .*itself.yaml"),
        ("in_turn.py", "_base_ = 'turned.json'", "in_turn.py -> .*turned.json -> .*in_turn.py"),
        ("itself.py", f"{LAZY}.itself import *", "on itself: .*itself.py -> "),
        (
            "on_folder.py",
            "_base_ = 'folder.py'",
            "on_folder.py names .*is not a regular file",
        ),
        ("on_pipe.py", "_base_ = 'pipe.py'", "on_pipe.py names .*which is not a regular file"),
        ("on_loop.py", "_base_ = 'loop.py'", "on_loop.py names .*which does not exist"),
        ("on_link.py", "_base_ = 'link.py'", "on itself: .*on_link.py -> .*on_link.py; take"),
        ("numbered.py", "_base_ = 3", "numbered.py: _base_ must be a path or a list of .*, got 3"),
        (
            "misspelt.py",
            "_base_ = 'mmvitconv::fcvit/fcvit_s12_imagnet.py'",
            "no config file 'fcvit/fcvit_s12_imagnet.py', .* did you mean .*fcvit_s12_imagenet.py",
        ),
        ("zero.py", "_base_ = 'a\\0.py'", "zero.py: _base_ must be a path"),
        ("notes.txt", "x", "notes.txt"),
    ],
)
def test_unreadable_config(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "turned.json").write_text('{"_base_": "in_turn.py"}')
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "link.py").symlink_to("on_link.py")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / name).write_text(text)
    before = {key: value for key, value in vars(Config).items() if isinstance(value, staticmethod)}
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / name))
    assert before.items() <= vars(Config).items()


@pytest.mark.parametrize(
    "base", ["fcvit/fcvit_s12_imagenet.py", "fcvit_s12_imagenet", "_base_/default_runtime.py"]
)
def test_shipped_configs_are_bases(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any folder, whatever files of these names are in it."""
    other = tmp_path / base
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise ValueError")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(f"_base_ = 'mmvitconv::{base}'\nresume = 'yes'\n")
    cfg = load_config("own.py").to_dict()
    assert cfg.pop("resume") == "yes"
    path = resource_root() / "configs" / ("" if "/" in base else "fcvit") / base
    shipped = Config.fromfile(path.with_suffix(".py")).to_dict()
    del shipped["resume"]
    assert cfg == shipped


def test_bases_of_bases(tmp_path: Path) -> None:
    """The same base may come twice, on different ways; not too many may follow each other."""
    for number in range(60):
        (tmp_path / f"{number}.py").write_text(f"_base_ = '{number + 1}.py'\n" * (number < 59))
    assert load_config(str(tmp_path / "20.py")).filename
    with pytest.raises(UserError, match=r"9.py has more than 50 _base_ in a row"):
        load_config(str(tmp_path / "9.py"))
