"""The index of published weights: complete, and what the configs and metafiles say as well."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.resources import resource_root
from mmvitconv.weights.index import INDEX, find_weights, read_index, weights_of
from mmvitconv.zoo.loading import input_norm
from mmvitconv.zoo.table import read_table

NAMES = list(read_index())
ADDRESSES = {
    "direct": r"https://[\w.-]+/\S+",
    "drive-file": r"https://drive\.google\.com/file/d/[\w-]{33}/view",
    "drive-folder": r"https://drive\.google\.com/drive/folders/[\w-]{33}",
    "timm": r"timm://\w+\.\w+",
}
TASKS = {"mmpretrain": "classification", "mmdet": "detection", "mmseg": "segmentation"}


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete(name):
    entry = read_index()[name]
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", name)
    family, arch = entry.architecture.split(":")
    assert arch in [known.arch for known in read_table()[family].archs]
    assert entry.task in TASKS.values()
    assert entry.dataset
    assert entry.licence
    assert entry.published
    assert entry.published_in
    assert all(isinstance(value, float) for value in entry.published.values())
    assert bool(entry.config) == entry.loads
    assert entry.input.colours in ("RGB", "BGR")
    assert len(entry.input.mean) == len(entry.input.std) == 3
    files = [source.file for source in entry.sources]
    assert len(files) == len(set(files)) > 0
    for source in entry.sources:
        assert re.fullmatch(ADDRESSES[source.kind], source.address)
        assert re.fullmatch(r"[\w.-]+\.(pth|tar|pt|ckpt|safetensors)", source.file)
        assert re.fullmatch(r"([0-9a-f]{8,64})?", source.sha256)
        assert source.size is None or source.size > 0
        assert source.named in ("here", "there")


def test_addresses_differ():
    addresses = [source.address for entry in read_index().values() for source in entry.sources]
    assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize("name", [name for name in NAMES if read_index()[name].config])
def test_entries_say_what_their_config_says(name):
    entry = read_index()[name]
    config = load_config(resource_root() / entry.config)
    backbone = config.model.backbone
    assert f"{backbone.type}:{backbone.arch}" == f"mmvitconv.{entry.architecture}"
    assert all(backbone[key] == value for key, value in entry.backbone.items())
    assert backbone.get("mixer") == entry.backbone.get("mixer")
    assert TASKS[config.default_scope] == entry.task
    mean, std, is_rgb = input_norm(config)
    assert (mean, std, is_rgb) == (entry.input.mean, entry.input.std, entry.input.colours == "RGB")
    steps = {step.type: step for step in config.test_dataloader.dataset.pipeline}
    resize = steps.get("ResizeEdge") or steps["Resize"]
    assert resize.scale == entry.input.resize
    assert resize.get("interpolation", "bilinear") == entry.input.interpolation
    assert resize.get("keep_ratio", True) == entry.input.keep_ratio
    assert (resize.get("backend") == "pillow") == entry.input.antialias
    crop = steps.get("CenterCrop")
    assert (crop and crop.crop_size) == entry.input.crop


@pytest.mark.parametrize("name", [name for name in NAMES if read_index()[name].config])
def test_entries_say_what_the_metafile_says(name):
    entry = read_index()[name]
    metafile = resource_root() / Path(entry.config).parent / "metafile.yml"
    models = yaml.safe_load(metafile.read_text("utf-8"))["Models"]
    (model,) = [model for model in models if model["Config"] == entry.config]
    direct = [source.address for source in entry.sources if source.kind == "direct"]
    assert model.get("Weights") == next(iter(direct), None)  # what 'mim download' fetches
    figures = {
        metric: (result["Dataset"], value)
        for result in model.get("Results", [])
        for metric, value in result["Metrics"].items()
    }
    for metric, value in entry.published.items():
        if metric in figures:
            assert figures[metric] == (entry.dataset, value)


def test_metafiles_have_weights_of_the_index_only():
    known = {
        (entry.config, source.address)
        for entry in read_index().values()
        for source in entry.sources
    }
    for metafile in (resource_root() / "configs").glob("*/metafile.yml"):
        for model in yaml.safe_load(metafile.read_text("utf-8"))["Models"]:
            assert "Weights" not in model or (model["Config"], model["Weights"]) in known


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("fcvit_s12", "fcvit_s12"),
        ("FCViT-S12", "fcvit_s12"),
        ("fcvit_s12_imagenet", "fcvit_s12"),
        ("maskrcnn_fcvit_s12_coco", "fcvit_s12_maskrcnn_coco"),
        ("maskrcnn_lightvit_tiny_3x_coco", "lightvit_tiny_maskrcnn_3x_coco"),
        ("deeplabv3_parcnet_s_voc", "parcnet_s_deeplabv3_voc"),
    ],
)
def test_names_and_other_spellings(given, name):
    assert find_weights(given).name == name


@pytest.mark.parametrize(
    ("given", "hint"),
    [("fcvit_s13", "did you mean fcvit_s12 or"), ("", "weights list"), ("resnet", "weights list")],
)
def test_unknown_names(given, hint):
    with pytest.raises(UserError, match=f"no published weights {given!r}; .*{hint}"):
        find_weights(given)


def test_figures_are_printed_as_their_source_prints_them():
    entry = find_weights("lightvit_small_maskrcnn_coco")
    assert entry.figures() == "box AP 40.0, mask AP 37.4"


def test_weights_of_an_architecture():
    assert [entry.name for entry in weights_of("FCViT:s12")] == [
        "fcvit_s12",
        "fcvit_s12_maskrcnn_coco",
        "fcvit_s12_fpn_ade20k",
    ]
    assert weights_of("ParCResNet:50") == []


def test_the_index_needs_no_torch():
    code = (
        "import sys; from mmvitconv.weights.index import read_index; "
        "from mmvitconv.weights import downloads; read_index(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_that_nobody_knows_is_found(tmp_path, monkeypatch):
    (tmp_path / "index.yml").write_text(INDEX.read_text().replace("licence:", "license:", 1))
    monkeypatch.setattr("mmvitconv.weights.index.INDEX", tmp_path / "index.yml")
    with pytest.raises(TypeError, match="license"):
        read_index.__wrapped__()
