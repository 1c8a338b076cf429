"""Settings of a config file that have no effect."""

import pytest
from mmengine.config import Config

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.effects import _is_set, check_effects
from mmvitconv.engine.configuration import load_config

BASE = """
data_root = "base/"
classes = ("a",)
train_pipeline = [dict(type="LoadImageFromFile")]
model = dict(type="Model")
loader = dict(dataset=dict(type="Some", data_root=data_root, pipeline=train_pipeline,
                           metainfo=dict(classes=classes)))
train_dataloader = loader
val_dataloader = dict(dataset=dict(type="Some", data_root=data_root, ann_file="val.json"))
test_dataloader = val_dataloader
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data_root = 'mine/'", "write train_dataloader.dataset.data_root in your file"),
        ("data_root = 'base/'", ""),
        ("data_root = 'mine/'\ntrain_dataloader = dict(dataset=dict(data_root=data_root))", ""),
        ("data_root = 'mine/'\ntrain_dataloader = dict(dataset=dict(data_root='mine/'))", ""),
        ("train_pipeline = [dict(type='Other')]", "write train_dataloader.dataset.pipeline"),
        ("metainfo = dict(classes=('b',))", "write train_dataloader.dataset.metainfo"),
        ("optimizer = dict(type='SGD')", "write optim_wrapper=dict(optimizer=...)"),
        ("optimizer = dict(type='SGD')\noptim_wrapper = dict(optimizer=optimizer)", ""),
        ("data = dict(samples_per_gpu=2)", "a key of OpenMMLab 1.x"),
        ("lr_config = dict(policy='step')", "write param_scheduler"),
        ("train_dataloder = dict(batch_size=2)", "did you mean 'train_dataloader'?"),
        ("base_width = 4\nmodel = dict(width=base_width * 2)", ""),
        ("project = 'mine'", ""),
        (
            "data_root = '{{fileDirname}}'\n"
            "train_dataloader = dict(dataset=dict(data_root=data_root))",
            "",
        ),
        ("val_dataloader = dict(dataset=dict(data_root='mine/'))", "test_dataloader is still that"),
        (
            "val_dataloader = dict(dataset=dict(data_root='mine/'))\n"
            "test_dataloader = val_dataloader",
            "",
        ),
        ("val_dataloader = dict(batch_size=4)", ""),
        # equal to another number of the config
        ("batch_size = 7\nmodel = dict(depth=7)", "write train_dataloader.batch_size"),
        ("max_epochs = 7\nparam_scheduler = [dict(end=7)]", "write train_cfg.max_epochs"),
        ("batch_size = 7\ntrain_dataloader = dict(batch_size=7)", ""),
    ],
)
def test_what_nothing_reads(tmp_path, text, words):
    (tmp_path / "base.py").write_text(BASE)
    file = tmp_path / "mine.py"
    file.write_text('_base_ = "./base.py"\n' + text.replace("\\\n", "\n") + "\n")
    report = Report()
    check_effects(report, load_config(file))
    found = report.sentences()
    assert [words in sentence for sentence in found] == ([True] if words else []), found
    assert all(sentence.startswith("mine.py:") for sentence in found)


def test_a_grandchild_may_read_a_variable(tmp_path):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "middle.py").write_text('_base_ = "./base.py"\nimg_suffix = ".tif"\n')
    file = tmp_path / "mine.py"
    file.write_text(
        '_base_ = "./middle.py"\n'
        "train_dataloader = dict(dataset=dict(img_suffix=_base_.img_suffix))\n"
    )
    report = Report()
    check_effects(report, load_config(file))
    assert report.errors == {}


def test_places_of_a_config_and_of_the_dicts_inside_are_found():
    cfg = Config({"a": {"b": 1}})
    assert _is_set(cfg, "a.b")
    assert not _is_set(cfg, "a.c")
    assert not _is_set(cfg, "a.b.c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backbone = dict(depth=50)", ["mine.py:2: backbone: it has no effect"]),
        ("backbone = dict(depth=50)\nmodel = dict(backbone=backbone)", []),
    ],
)
def test_a_variable_that_a_base_has_read_before(tmp_path, text, words):
    (tmp_path / "backbone.py").write_text('backbone = dict(type="Net", depth=18)\n')
    (tmp_path / "base.py").write_text(
        '_base_ = "./backbone.py"\nmodel = dict(backbone=_base_.backbone)\n'
    )
    file = tmp_path / "mine.py"
    file.write_text(f'_base_ = "./base.py"\n{text}\n')
    report = Report()
    check_effects(report, load_config(file))
    assert [sentence[: len(words[0])] for sentence in report.sentences()] == words
