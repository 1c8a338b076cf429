"""The zoo against the models, the metafiles and what people call an architecture."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from families import ALL, ARCHS, FAMILIES
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from mmvitconv.errors import UserError
from mmvitconv.registry import MODELS as MMVITCONV_MODELS
from mmvitconv.resources import list_configs
from mmvitconv.zoo import catalogue as zoo
from mmvitconv.zoo.archs import match_arch
from mmvitconv.zoo.published import read_entries

ROOT = Path(__file__).resolve().parents[2]
# What names of configs call our architectures; backbones of mmpretrain have other names.
OURS = re.compile(r"(^|_)(fcvit|lightvit|convmixer|parcnet|parc|dynconv)_|^deit_")


@pytest.fixture(scope="module")
def archs() -> list[zoo.Arch]:
    return zoo.list_archs()


def test_every_registered_name_is_there_once(archs):
    names = [(arch.family, name) for arch in archs for name in (arch.arch, *arch.aliases)]
    assert sorted(names) == sorted(ALL)
    for arch in archs:
        assert {arch.arch, *arch.aliases} == {
            name
            for name, sizes in ARCHS[arch.family].items()
            if sizes == ARCHS[arch.family][arch.arch]
        }


def test_known_numbers(archs):
    """docs/specs/fcvit.md#2-variants: trunk and four output norms; MACs as the metafile's
    classifier."""
    (s12,) = (arch for arch in archs if (arch.family, arch.arch) == ("FCViT", "s12"))
    metafile = yaml.safe_load((ROOT / "configs/fcvit/metafile.yml").read_text("utf-8"))
    entries = {model["Name"]: model for model in metafile["Models"]}
    assert s12.parameters == entries["maskrcnn_fcvit_s12_coco"]["Metadata"]["Backbone Parameters"]
    classifier = entries["fcvit_s12_imagenet"]["Metadata"]["FLOPs"]
    assert s12.macs_224 == classifier - 512 * 1000
    detector = entries["maskrcnn_fcvit_s12_coco"]["Metadata"]
    assert s12.macs["800x1280"] == detector["Backbone FLOPs"]
    assert (s12.strides, s12.out_channels) == ((4, 8, 16, 32), (64, 128, 320, 512))
    assert s12.aliases == ("b12",)
    assert s12.tasks == ("classification", "detection", "segmentation")
    assert s12.paper.url == "https://arxiv.org/abs/2212.12552"


def test_every_published_number_is_there(archs):
    shown = {
        (config.path, result.dataset, result.metric, result.value)
        for arch in archs
        for config in arch.configs
        for result in config.results
    }
    written = {
        (model["Config"], result["Dataset"], metric, value)
        for path in ROOT.glob("configs/*/metafile.yml")
        for model in yaml.safe_load(path.read_text("utf-8"))["Models"]
        if OURS.search(model["Name"])
        for result in model.get("Results") or []
        for metric, value in result["Metrics"].items()
    }
    assert shown == written
    assert all(r.source for arch in archs for config in arch.configs for r in config.results)


def test_the_parameters_of_parts_add_up(archs):
    for arch in archs:
        assert arch.unit == FAMILIES[arch.family].unit
        assert 0 < sum(arch.part_parameters) <= arch.parameters, arch


def test_only_the_folders_of_a_family_are_read():
    """The shortcut finds as many configs as reading all of them."""
    everything = read_entries(FAMILIES)
    own = [e.config for e in everything if e.model.backbone.type == "mmvitconv.DynConvSwin"]
    assert own
    assert [entry.config for entry in read_entries(["DynConvSwin"])] == own
    others = {key for key, path in list_configs().items() if not OURS.search(path.stem)}
    assert {entry.config.path for entry in everything} == set(list_configs()) - others
    assert others, "baselines, and what ParC is put into"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lines_for_ones_own_config_work(archs, family):
    own = [arch for arch in archs if arch.family == family]
    for arch in {own[0], own[-1]}:
        names: dict = {}
        exec(arch.snippet, names)
        model = names["model"]
        assert model["backbone"].pop("_delete_")
        neck = model["neck"]
        if isinstance(neck, dict) and not neck.pop("_delete_", False):
            neck = {"type": "FPN", "out_channels": 256, "num_outs": 5, **neck}
        with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
            backbone = MODELS.build(model["backbone"]).eval()
            maps = backbone(torch.empty(1, 3, 128, 128))
            for part in neck if isinstance(neck, list) else [neck]:
                maps = MODELS.build(part)(maps)
        assert [128 // m.shape[-1] for m in maps][:4] == [4, 8, 16, 32]
        assert {m.shape[1] for m in maps} == {256}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "s12",
            "b12",
            "S12",
            "fcvit_s12",
            "FCViT s12",
            "mmvitconv.FCViT-b12",
            "mmvitconv://fcvit_s12",
        ),
        *("maskrcnn_fcvit_s12_coco", "configs/fcvit/fcvit_s12_imagenet.py"),
    ],
)
def test_names_of_one(name):
    found = zoo.find_arch(name)
    assert (found.family, found.arch) == ("FCViT", "s12")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny", ["several", "FCViT tiny", "LightViT tiny"]),
        ("FCViT", ["several", "FCViT s12", "FCViT s48"]),
        ("fcvit_s13", ["no architecture 'fcvit_s13'", "did you mean", "FCViT s12"]),
        ("zzzzzz", ["no architecture", "mmvitconv list"]),
        ("deit_small", ["no architecture", "give the config deit_small_imagenet"]),
        ("", ["no architecture ''"]),
        ("dynconv_deit_nano_lnrelu_mnist", ["is no architecture of mmvitconv"]),
    ],
)
def test_names_of_none_or_several(name, words):
    with pytest.raises(UserError) as caught:
        zoo.find_arch(name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_nothing_heavy_is_imported():
    """The table answers: a shell waits for neither torch nor a model."""
    code = (
        "import sys; from mmvitconv.cli import run; "
        "assert not run('list', '--task', 'detection') and not run('info', 'fcvit_s12') "
        "and not run('info', 'maskrcnn_fcvit_s12_coco'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_other_peoples_families_are_known_by_name(monkeypatch):
    fcvit = FAMILIES["FCViT"]
    own = type("OwnNet", (fcvit,), {"__module__": fcvit.__module__})  # where ARCHS is
    monkeypatch.setitem(MMVITCONV_MODELS.module_dict, "OwnNet", own)
    assert match_arch("ownnet s12") == ("OwnNet", "s12")
    with pytest.raises(UserError, match="OwnNet s12 is not part of mmvitconv"):
        zoo.find_arch("ownnet s12")


def test_own_configs_name_an_architecture(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("model = dict(backbone=dict(type='mmvitconv.LightViT'))")
    assert zoo.find_arch(str(path)).arch == "tiny"
    path.write_text("model = dict(backbone=dict(type='mmvitconv.FCViT', arch='b24'))")
    assert zoo.find_arch(str(path)).arch == "s24"


def test_choosing_a_family_and_a_task():
    """Of both families in the folder; nothing of the others."""
    found = {arch.family for arch in zoo.list_archs("dynconv", "segmentation")}
    assert found == {"DynConvViT", "DynConvSwin"}
    assert all("segmentation" in arch.tasks for arch in zoo.list_archs("dynconv", "segmentation"))
    assert zoo.list_archs("fcvit", "detection") == zoo.list_archs("fcvit")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *((name, ["FCViT"]) for name in ("fcvit", "FCViT", "mmvitconv.FCViT", "fc-vit")),
        ("dynconv", ["DynConvViT", "DynConvSwin"]),
    ],
    ids=str,
)
def test_names_of_families(name, found):
    assert list(dict.fromkeys(arch.family for arch in zoo.list_archs(name))) == found


@pytest.mark.parametrize(
    ("family", "task", "words"),
    [("fcvitt", None, "did you mean 'FCViT'"), (None, "detect", "classification, detection")],
)
def test_wrong_choices_are_one_sentence(family, task, words):
    with pytest.raises(UserError, match=words):
        zoo.list_archs(family, task)
