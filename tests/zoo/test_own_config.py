"""Configs for somebody's own data: they parse, name what is there, and their models fit."""

import json

import exports
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from recipes import build

from mmvitconv.checks.config import check_config
from mmvitconv.cli import main
from mmvitconv.errors import UserError
from mmvitconv.zoo.catalogue import find_arch, list_archs
from mmvitconv.zoo.config_text import Name, Why, to_text
from mmvitconv.zoo.own_model import METHODS, find_recipe, set_classes


def folders(root):
    for cls in ("cat", "dog"):
        exports.write_images(root / cls, ["a b.jpg", "ü.jpg", "c.jpg"])


WRITERS = {
    "classification": folders,
    "detection": exports.yolo,
    "instance": exports.labelme,
    "semantic": lambda root: exports.masks(root, "colours"),
}


def tasks_of(family):
    """What the family's shipped configs are for, by the beginnings of their names."""
    names = [config.path.rpartition("/")[2] for a in list_archs(family) for config in a.configs]
    marks = {"instance": "maskrcnn_", "semantic": ("upernet_", "fpn_")}
    marks["detection"] = ("retinanet_", "maskrcnn_")
    return {"classification"} | {
        task for task, mark in marks.items() if any(name.startswith(mark) for name in names)
    }


def init(task, data, out, *options):
    assert main(["init", task, "--data", str(data), "--out", str(out), *options]) == 0
    return Config.fromfile(out)


@pytest.mark.parametrize("task", WRITERS)
def test_config_of_a_folder(task, tmp_path, capsys, runner_state):
    WRITERS[task](tmp_path / "data")
    cfg = init(task, tmp_path / "data", tmp_path / "mine/my.py", "--arch", "fcvit_tiny")
    assert "mmvitconv://fcvit_tiny" in capsys.readouterr().out
    assert "_base_ =" not in (tmp_path / "mine/my.py").read_text(encoding="utf-8")
    model = build(cfg)
    names = cfg.train_dataloader.dataset.metainfo.classes
    heads = [
        module.num_classes
        for name, module in model.named_modules()
        if hasattr(module, "num_classes") and "rpn" not in name
    ]
    assert set(heads) == {len(names)}
    text = (tmp_path / "mine/my.py").read_text(encoding="utf-8")
    assert " of training: " in text
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    lengths = {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for split in ("train", "val"):
            dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
            sample = dataset[0]
            assert sample["inputs"].shape[0] == 3
            lengths[split] = len(dataset)
    assert sum(lengths.values()) == 6
    report = check_config(cfg)
    assert not report.errors
    assert report.warnings == {}
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if "ann_file" in evaluator:
            assert evaluator.ann_file == cfg.val_dataloader.dataset.ann_file


@pytest.mark.parametrize("name", exports.BOXES)
def test_what_tools_export_passes_the_check(name, tmp_path, runner_state):
    exports.BOXES[name](tmp_path / "my data")
    report = check_config(init("detection", tmp_path / "my data", tmp_path / "my.py"))
    assert not report.errors
    assert report.warnings == {}
    assert sum(images for _, images, _ in report.rows) == (5 if name == "csv" else 6)


def without(lists, *keys):
    def change(content):
        for entry in content[lists]:
            for key in keys:
                entry.pop(key)

    return change


def as_texts(content):
    for name, keys in (("images", ["id"]), ("annotations", ["id", "image_id", "category_id"]),
                       ("categories", ["id"])):  # fmt: skip
        for entry in content[name]:
            entry.update({key: f"text-{entry[key]}" for key in keys})


@pytest.mark.parametrize(
    ("change", "is_used"),
    [
        (lambda content: None, True),
        (lambda content: content.update(annotations=content["annotations"][1:]), True),
        (lambda content: content["categories"].reverse(), False),
        (as_texts, False),
        (without("images", "width", "height"), False),
        (without("annotations", "area"), False),
        (
            lambda content: content["annotations"][0].update(bbox=[0, 0, 0, 0]),
            False,
        ),  # a mask has it
        (without("annotations", "iscrowd"), False),
        (without("annotations", "id", "segmentation"), False),
    ],
)
def test_odd_jsons_are_written_anew_where_a_run_would_refuse_them(
    change, is_used, tmp_path, runner_state
):
    exports.split_coco(tmp_path / "data")
    file = tmp_path / "data/valid/_annotations.coco.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    cfg = init("detection", tmp_path / "data", tmp_path / "my.py")
    assert (cfg.val_dataloader.dataset.ann_file == str(file)) is is_used
    report = check_config(cfg)
    assert (report.errors, report.warnings) == ({}, {})
    assert [row[1] for row in report.rows] == [4, 2]


def transparent(image, file):
    image.putalpha(image.convert("L"))
    image.save(file)


ODD_IMAGES = {
    "grey": lambda image, file: image.convert("L").save(file),
    "opaque": lambda image, file: image.convert("RGBA").save(file),
    "grey and opaque": lambda image, file: image.convert("LA").save(file),
    "transparent": transparent,
    "palette": lambda image, file: image.convert("P").save(file),
    "two values": lambda image, file: image.convert("1").save(file),
    "16 bits": lambda image, file: Image.fromarray(np.asarray(image)[..., 0] * np.uint16(99)).save(
        file
    ),
}


@pytest.mark.parametrize("kind", ODD_IMAGES)
@pytest.mark.parametrize("number", [2, 6])  # of the images: the others are of 8-bit colours
def test_odd_images_are_no_warning(kind, number, tmp_path, runner_state):
    exports.masks(tmp_path, "palette")
    for index, file in enumerate(sorted((tmp_path / "images").rglob("*.jpg"))):
        image = Image.open(file).convert("RGB")
        file.unlink()
        save = ODD_IMAGES[kind] if index < number else Image.Image.save
        save(image, file.with_suffix(".png"))
    cfg = init("semantic", tmp_path, tmp_path / "my.py")
    report = check_config(cfg)
    assert report.errors == {}
    if kind == "transparent" and number == 2:  # of the others there is no fourth band
        assert [kind.partition(",")[0] for kind in report.warnings] == ["image with transparency"]
    else:
        assert report.warnings == {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        assert {dataset[n]["inputs"].shape[0] for n in range(len(dataset))} == {3}


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_annotations_of_images_as_they_are_stored(task, tmp_path, runner_state):
    exports.coco(tmp_path) if task == "instance" else exports.masks(tmp_path, "numbers")
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (tmp_path / "images").rglob("*.jpg"):
        Image.open(file).save(file, exif=exif)
    cfg = init(task, tmp_path, tmp_path / "my.py")
    assert cfg.train_pipeline[0].color_type == "color_ignore_orientation"
    report = check_config(cfg)
    assert (report.errors, report.warnings) == ({}, {})
    assert not any("EXIF" in note for note in report.notes)


def test_what_is_below_the_config_moves_with_it(tmp_path, runner_state):
    exports.coco(tmp_path / "old/data")
    init("detection", tmp_path / "old/data", tmp_path / "old/my.py")
    (tmp_path / "old").rename(tmp_path / "new")
    cfg = Config.fromfile(tmp_path / "new/my.py")
    assert cfg.data_root == str(tmp_path / "new/data")
    assert cfg.train_dataloader.dataset.ann_file == str(tmp_path / "new/my_data/train.json")


def test_sixteen_bits_are_rescaled(tmp_path, runner_state):
    exports.coco(tmp_path)
    generator = np.random.default_rng(0)
    for file in [*(tmp_path / "images").rglob("*.jpg")]:
        values = generator.integers(200, 3000, (exports.HEIGHT, exports.WIDTH)).astype(np.uint16)
        Image.fromarray(values).save(file.with_suffix(".png"))
        file.unlink()
    cfg = init("detection", tmp_path, tmp_path / "my.py")
    step = cfg.train_pipeline[0]
    assert step.type == "mmvitconv.LoadBands"
    assert 200 <= step.value_range[0] < 220
    assert 2980 < step.value_range[1] <= 3000
    assert step.bands == (0, 0, 0)
    assert cfg.test_pipeline[0] == step
    # uniform numbers over the range become 0 to 255: the mean is in the middle
    np.testing.assert_allclose(cfg.model.data_preprocessor.mean, 127.5, atol=5)


def test_all_bands_from_scratch(tmp_path, runner_state):
    folders(tmp_path)
    generator = np.random.default_rng(0)
    for file in [*tmp_path.rglob("*.jpg")]:
        values = generator.integers(0, 256, (exports.HEIGHT, exports.WIDTH, 6), dtype=np.uint8)
        np.save(file.with_suffix(".npy"), values)
        file.unlink()
    cfg = init("classification", tmp_path, tmp_path / "my.py", "--from-scratch")
    assert cfg.model.backbone.in_channels == len(cfg.model.data_preprocessor.mean) == 6
    assert "init_cfg" not in cfg.model.backbone
    build(cfg)


@pytest.mark.parametrize("task", METHODS)
@pytest.mark.parametrize("arch", list_archs(), ids=lambda arch: f"{arch.family}-{arch.arch}")
def test_every_architecture_fits_its_heads(arch, task, count):
    if task not in tasks_of(arch.family):
        with pytest.raises(UserError, match="no shipped config uses"):
            find_recipe(arch, task)
        return
    recipe = find_recipe(arch, task)
    set_classes(recipe.model, 3)
    if arch.arch == list_archs(arch.family)[0].arch:  # one of a family
        recipe.make_narrow()
    scope = {"classification": "mmpretrain", "semantic": "mmseg"}.get(task, "mmdet")
    build(Config({"model": recipe.model, "default_scope": scope}))
    assert recipe.model["backbone"]["arch"] == arch.arch
    count("models for own classes")


def test_weights_are_those_of_the_architecture():
    recipe = find_recipe(find_arch("fcvit_s48"), "detection")  # of which there is no RetinaNet
    assert recipe.model["backbone"]["init_cfg"]["checkpoint"] == "mmvitconv://fcvit_s48"
    recipe.start_from_scratch()
    assert "init_cfg" not in recipe.model["backbone"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "my.yaml"], "a config is a .py file"),
        (["--arch", "fcvit_s13"], "there is no architecture"),
        (["--data", "nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exports.coco(tmp_path / "data")
    assert main(["init", "detection", "--data", "data", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("my*"))


def test_an_earlier_config_stays(tmp_path, capsys):
    exports.coco(tmp_path / "data")
    (tmp_path / "my.py").write_text("mine = 1\n")
    command = [
        "init",
        "detection",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "my.py"),
    ]
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "my.py").read_text() == "mine = 1\n"


def test_text_of_settings():
    settings = {
        "name": 'quo"te\\',
        "one": ("a",),
        "long": [dict.fromkeys(("first_key", "second_key", "third"), "x" * 20)] * 2,
        "odd": {"a.b": 1, "c": Why([1, 2], "a reason")},
        "again": Name("one"),
        "why": Why(3, "because " * 20),
    }
    text = to_text(settings)
    space: dict = {}
    exec(text, space)
    assert space["name"] == settings["name"]
    assert space["long"] == settings["long"]
    assert space["odd"] == {"a.b": 1, "c": [1, 2]}
    assert space["again"] == ("a",)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("# a reason") == 1
