"""Every config in configs/: name, head comment, recipe, building from a cold interpreter."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from families import ARCHS
from mmengine.config import Config
from mmengine.registry import Registry
from recipes import read, read_metafile

import mmvitconv.registry
from mmvitconv.resources import find_config

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted(path for path in ROOT.glob("configs/*/*.py") if path.parent.name != "_base_")
FILES = sorted(ROOT.glob("configs/**/*.py"))

ARCHS_OF_SWIN_AND_DEIT = ("tiny", "small", "base")
PARC_NETS = [f"parcnet_{arch}" for arch in ("xs", "s", "h")]
PARC_CONVNETS = [f"parc_convnext_{arch}" for arch in ("xt", "tiny", "gcc_t")]
PARC_CONVNETS += ["parc_resnet50", "parc_mobilenetv2"]
BASELINES = ["convnext_xt", "resnet50", "mobilenetv2"]
FAST_PARC = [
    f"fastparc_{name}" for name in ("deit_small", "swin_tiny", "resnet50", "convnext_tiny")
]
# Each architecture of a folder has a classifier and these three with our heads.
DENSE = ("maskrcnn_{}_coco", "retinanet_{}_coco", "upernet_{}_ade20k")
GRID = {
    "fcvit": [f"fcvit_{arch}" for arch in ("tiny", "s12", "s24", "s48")],
    "lightvit": [f"lightvit_{arch}" for arch in ("tiny", "small", "base")],
    "convmixer": [
        f"convmixer_{arch}"
        for arch in ("1536_20", "768_32", "1024_20", "1024_12", "512_16", "256_8")
    ],
    "parc": [*PARC_NETS, *PARC_CONVNETS, *BASELINES],
    "dynconv": [
        *(
            f"dynconv_{trunk}_{arch}_{mixer}"
            for trunk in ("deit", "swin")
            for arch in ("tiny", "small")
            for mixer in ("softmax", "lnrelu", "dwvit")
        ),
        *(f"dynconv_{trunk}_base_softmax" for trunk in ("deit", "swin")),
    ],
}
# One architecture of each folder has these.
MODERN = (
    *("dino_{}_coco", "mask2former_{}_coco", "mask2former_{}_ade20k"),
    *("maskrcnn_{}_lsj_100e_coco", "upernet_{}_cityscapes", "fpn_{}_ade20k"),
)
CHOSEN = {
    "fcvit": "fcvit_s12",
    "lightvit": "lightvit_tiny",
    "convmixer": "convmixer_768_32",
    "parc": "parc_convnext_xt",
    "dynconv": "dynconv_swin_tiny_lnrelu",
}
MORE = {
    "fcvit": {
        *(f"maskrcnn_fcvit_{arch}_3x_coco" for arch in ("tiny", "s12", "s24", "s48")),
        *(f"fpn_fcvit_{arch}_ade20k" for arch in ("tiny", "s12", "s24", "s48")),
        "maskrcnn_fcvit_tiny_nuclei",
        "retinanet_fcvit_tiny_trees",
        "upernet_fcvit_tiny_nuclei",
        "fcvit_tiny_mnist",
    },
    "lightvit": {
        *(f"maskrcnn_lightvit_{arch}_3x_coco" for arch in ("tiny", "small", "base")),
        *(f"fpn_lightvit_{arch}_ade20k" for arch in ("tiny", "small", "base")),
        "maskrcnn_lightvit_tiny_nuclei",
        "lightvit_tiny_mnist",
    },
    "convmixer": {
        "maskrcnn_convmixer_256_8_nuclei",
        "convmixer_256_8_cifar10",
        "convmixer_256_8_100epochs_cifar10",
        "convmixer_256_8_mnist",
    },
    "parc": {
        *(f"maskrcnn_parc_convnext_{arch}_3x_coco" for arch in ("xt", "tiny", "gcc_t")),
        *(f"cascade_maskrcnn_parc_{name}_3x_coco" for name in BASELINES),
        *(f"cascade_maskrcnn_{name}_3x_coco" for name in BASELINES),
        *(f"fpn_{name}_ade20k" for name in ("parcnet_s", "parc_resnet50", "parc_mobilenetv2")),
        *(
            form.format(name)
            for form in ("{}_imagenet", "maskrcnn_{}_coco", "upernet_{}_ade20k")
            for name in FAST_PARC
        ),
        "ssdlite_parcnet_s_coco",
        "deeplabv3_parcnet_s_voc",
        "deeplabv3_parcnet_s_no_coco_voc",
        "maskrcnn_parcnet_xs_nuclei",
    },
    "dynconv": {
        *(f"deit_{arch}_imagenet" for arch in ARCHS_OF_SWIN_AND_DEIT),
        *(
            f"dynconv_{trunk}_base_{mixer}_imagenet"
            for trunk in ("deit", "swin")
            for mixer in ("lnrelu", "dwvit")
        ),
        *(
            f"maskrcnn_dynconv_swin_{arch}_{mixer}_3x_coco"
            for arch in ("tiny", "small")
            for mixer in ("softmax", "lnrelu", "dwvit")
        ),
        *(
            form.format(f"dynconv_swin_tiny_{mixer}")
            for form in ("cascade_maskrcnn_{}_3x_coco", "fpn_{}_ade20k")
            for mixer in ("softmax", "lnrelu", "dwvit")
        ),
        "fpn_dynconv_deit_small_lnrelu_ade20k",
        "maskrcnn_dynconv_swin_nano_dwvit_nuclei",
        "dynconv_deit_nano_lnrelu_mnist",
    },
}
EXPECTED = {
    folder: {
        *(form.format(name) for form in ("{}_imagenet", *DENSE) for name in names),
        *(form.format(CHOSEN[folder]) for form in MODERN),
        *MORE[folder],
    }
    for folder, names in GRID.items()
}
# The folder of each data set, and the method that a name starts with by the class that it means.
DATA = {
    "imagenet": "data/imagenet",
    "cifar10": "data/cifar10",
    "coco": "data/coco",
    "ade20k": "data/ade/ADEChallengeData2016",
    "voc": "data/VOCdevkit/VOC2012",
    "cityscapes": "data/cityscapes",
    "nuclei": "data/nuclei",
    "trees": "data/trees",
    "mnist": "data/mnist",
}
ADDED = {"voc": "data/coco"}  # to the training data
METHODS = {
    "ImageClassifier": "",
    "MaskRCNN": "maskrcnn_",
    "CascadeRCNN": "cascade_maskrcnn_",
    "RetinaNet": "retinanet_",
    "SingleStageDetector": "ssdlite_",
    "UPerHead": "upernet_",
    "FPNHead": "fpn_",
    "DINO": "dino_",
    "Mask2Former": "mask2former_",
    "Mask2FormerHead": "mask2former_",
    "mmvitconv.DeepLabV3Head": "deeplabv3_",
}
# Backbones whose names in configs are not the class and the arch in lower case, in the folder parc.
PARC_NAMES = {
    "ParCNet": "parcnet_{}",
    "ParCConvNeXt": "parc_convnext_{}",
    "ParCResNet": "parc_resnet{}",
    "ParCMobileNetV2": "parc_mobilenetv2",  # of width 1.0
}
# Baselines of ParC's; in Fast-ParC's names they are what ParC is put into.
OTHERS = {
    "mmpretrain.ConvNeXt": "convnext_{arch}",
    "mmpretrain.ResNet": "resnet{depth}",
    "mmpretrain.MobileNetV2": "mobilenetv2",
    "mmpretrain.VisionTransformer": "{arch}",
    "mmpretrain.SwinTransformer": "swin_{arch}",
}
# In the folder dynconv names have the trunk, the arch and the mixer; an arch of a config's own is
# called nano.
DYNCONV_TRUNKS = {"DynConvViT": "deit", "DynConvSwin": "swin"}
DYNCONV_MIXERS = {"deit": "softmax", "swin": "softmax", "ln_relu": "lnrelu", "dwvit": "dwvit"}

COLD_BUILD = """
import json, sys, traceback
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
import torch

facts = {}
for path in sys.argv[1:]:
    try:
        cfg = Config.fromfile(path)
        init_default_scope(cfg.default_scope)
        try:
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
        except RuntimeError:  # mmpretrain's look at values
            model = MODELS.build(cfg.model).to('meta')
        maps = []
        model.backbone.register_forward_hook(lambda *args: maps.extend(args[2]))
        with torch.device('meta'):
            features = model.extract_feat(torch.empty(2, 3, 256, 256))
        facts[path] = dict(
            channels=[x.shape[1] for x in maps],
            strides=[256 // x.shape[2] for x in maps if x.ndim == 4],
            declared=[
                list(getattr(model.backbone, key, ())) for key in ('out_channels', 'strides')
            ],
            features=[tuple(feature.shape[1:]) for feature in features],
            dtypes=sorted({str(parameter.dtype) for parameter in model.parameters()}),
        )
    except Exception:
        facts[path] = dict(error=traceback.format_exc())
print(json.dumps(facts), file=sys.stderr)
"""

# From the registry itself, whatever the default scope is.
COLD_REGISTRY = """
import torch
from {package}.registry import MODELS

with torch.device('meta'):
    backbone = MODELS.build(dict(type='mmvitconv.FCViT', arch='tiny', out_indices=(0, 3)))
assert [tuple(y.shape) for y in backbone(torch.empty(1, 3, 64, 64, device='meta'))] == [
    (1, 32, 16, 16), (1, 320, 2, 2)]
"""


def run_cold(source: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter, outside the repository; gives its stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT.anchor,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="session")
def built() -> dict:
    """What one cold interpreter found when it built the model of every config."""
    assert "mmvitconv" not in COLD_BUILD
    return json.loads(run_cold(COLD_BUILD, *map(str, PATHS)).splitlines()[-1])


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def cfg(path: Path) -> Config:
    """The config; nobody changes it."""
    return read(path)


def head_comment(path: Path) -> dict[str, str]:
    """Title and the named lines of the comment at the top of a config."""
    lines = re.match(r"(?:#.*\n)+", path.read_text("utf-8")).group().splitlines()
    named = (re.match(r"# (\w+):\s+(.+)", line) for line in lines)
    return {"title": lines[0], **{match[1]: match[2] for match in named if match}}


def typed_dicts(node):
    """Every dict with a type inside a config."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node
        for value in node.values():
            yield from typed_dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from typed_dicts(value)


def method_of(model) -> str:
    """The method as config names call it: of a segmentor, the head decides."""
    kind = model.decode_head.type if "decode_head" in model else model.type
    return METHODS[kind]


def folder_and_name(backbone) -> tuple[str, str]:
    """The folder of a backbone's configs, and what their names call it."""
    if backbone.type == "mmvitconv.WithParC":
        return "parc", f"fastparc_{folder_and_name(backbone.backbone)[1]}"
    if backbone.type in OTHERS:
        words = {**backbone, "arch": backbone.get("arch")}
        if isinstance(words["arch"], dict):  # ParC-ConvNeXt-XT's sizes
            assert words["arch"]["channels"] == [48, 96, 192, 384]
            words["arch"] = "xt"
        return "parc", OTHERS[backbone.type].format(**words).replace("-", "_")
    kind, arch = backbone.type.removeprefix("mmvitconv."), backbone.arch
    if kind in DYNCONV_TRUNKS:
        mixer = backbone.mixer if isinstance(backbone.mixer, str) else backbone.mixer.preset
        arch = arch if isinstance(arch, str) else "nano"
        if backbone.get("with_cls_token"):
            return "dynconv", f"deit_{arch}"
        return "dynconv", f"dynconv_{DYNCONV_TRUNKS[kind]}_{arch}_{DYNCONV_MIXERS[mixer]}"
    if kind in PARC_NAMES:
        return "parc", PARC_NAMES[kind].format(arch)
    return kind.lower(), f"{kind.lower()}_{arch}"


@pytest.mark.parametrize("family", EXPECTED)
def test_all_configs_of_the_issues_exist(family):
    found = {path.stem for path in PATHS if path.parent.name == family}
    assert found == EXPECTED[family]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "configs")))
def test_nothing_comes_from_elsewhere(file):
    text = file.read_text("utf-8")
    for forbidden in ("download.openmmlab.com", "open-mmlab://"):
        assert forbidden not in text
    assert not re.search(r"\w::\w", text), "no inheritance from packages: give a path"


def test_name(path, cfg):
    method, (folder, name) = method_of(cfg.model), folder_and_name(cfg.model.backbone)
    dataset = path.stem.rpartition("_")[2]
    assert path.stem.startswith(f"{method}{name}_")
    assert path.parent.name == folder
    assert cfg.val_dataloader.dataset.data_root.rstrip("/") == DATA[dataset]
    for part in training_sets(cfg):
        assert part.data_root.rstrip("/") in (DATA[dataset], ADDED.get(dataset))
    is_segmentor = "decode_head" in cfg.model
    scope = "mmseg" if is_segmentor else "mmdet" if method else "mmpretrain"
    assert cfg.default_scope == scope


def test_head_comment(path):
    head = head_comment(path)
    assert {"Command", "Published", "Measured"} <= set(head)
    assert head["Measured"] != "@@"
    program, script, config = head["Command"].split()[:3]
    assert config in (str(path.relative_to(ROOT)), path.stem), "the name alone where lines end"
    assert find_config(path.stem) == path
    assert (program, script) in [("bash", "tools/dist_train.sh"), ("python", "tools/train.py")]
    assert (ROOT / script).is_file()
    if "Data" in head:
        assert (ROOT / head["Data"].split()[1]).is_file()


def test_effective_batch(path, cfg):
    head = head_comment(path)
    stated = re.search(r"batch (\d+) x (\d+)", head["title"])
    gpus, batch = map(int, stated.groups()) if stated else (1, cfg.train_dataloader.batch_size)
    assert batch == cfg.train_dataloader.batch_size
    steps = cfg.optim_wrapper.get("accumulative_counts", 1)
    assert cfg.auto_scale_lr == {"enable": False, "base_batch_size": gpus * batch * steps}
    assert (steps == 2) == ("of which two make a step" in head["title"])
    assert head["Command"].split()[3:] == ([str(gpus)] if stated else [])
    assert not stated or re.search(r"\d epochs|\dk iterations|\b[13]x\b", head["title"])


def test_schedule(cfg):
    optimizer = cfg.optim_wrapper.optimizer
    assert 0 < optimizer.lr < 0.1
    assert 0 <= optimizer.weight_decay < 1
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    assert length % cfg.train_cfg.val_interval == 0, "the last state would not be evaluated"
    kinds = {scheduler.type.rpartition(".")[2] for scheduler in cfg.param_scheduler}
    falling = any(scheduler.get("end_factor", 1) < 1 for scheduler in cfg.param_scheduler)
    assert falling or kinds & {"CosineAnnealingLR", "MultiStepLR", "PolyLR"}
    for scheduler in cfg.param_scheduler:
        steps = {"begin", "end", "T_max", "milestones"} & set(scheduler)
        assert not steps, "train_cfg alone says the length of the run"
    assert cfg.default_hooks.checkpoint.save_best
    assert cfg.default_hooks.checkpoint.max_keep_ckpts >= 1


@pytest.mark.parametrize(
    ("pattern", "lr", "weight_decay", "batch", "length"),
    [  # docs/specs/fcvit.md#4-published-recipes; standard recipes where it has none
        ("fcvit_*_imagenet", 1e-3, 0.05, 1024, 310),
        ("maskrcnn_fcvit_*_coco", 2e-4, 1e-4, 32, 12),
        ("fpn_fcvit_*_ade20k", 2e-4, 1e-4, 32, 40_000),
        ("retinanet_fcvit_*_coco", 1e-4, 0.05, 16, 12),
        ("upernet_fcvit_*_ade20k", 6e-5, 0.01, 16, 160_000),
    ],
)
def test_recipe(pattern, lr, weight_decay, batch, length):
    found = sorted((ROOT / "configs/fcvit").glob(f"{pattern}.py"))
    paths = [path for path in found if not path.stem.endswith(("_3x_coco", "_lsj_100e_coco"))]
    assert len(paths) >= 3
    for path in paths:
        cfg = Config.fromfile(path)
        assert cfg.optim_wrapper.optimizer.type == "AdamW"
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
        assert cfg.optim_wrapper.optimizer.weight_decay == weight_decay
        assert cfg.auto_scale_lr.base_batch_size == batch
        assert (cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters) == length


def test_types_of_ours_have_the_prefix(cfg):
    registries = [
        value for value in vars(mmvitconv.registry).values() if isinstance(value, Registry)
    ]
    ours = set()
    for registry in registries:
        if registry.scope == "mmvitconv":
            registry.import_from_location()
            ours |= set(registry.module_dict) - set(registry.parent.module_dict)
    assert "FCViT" in ours
    kinds = [node["type"] for node in typed_dicts(cfg._cfg_dict.to_dict())]
    assert not ours & set(kinds), "write the type with 'mmvitconv.' in front"
    backbone = cfg.model.backbone.type
    assert backbone.removeprefix("mmvitconv.") in ours or backbone in OTHERS


@pytest.mark.slow
@pytest.mark.smoke
def test_builds_from_a_cold_interpreter(path, built):
    facts = built[str(path)]
    assert "error" not in facts, facts.get("error")
    assert facts["dtypes"] == ["torch.float32"]


@pytest.mark.slow
@pytest.mark.smoke
def test_channels_and_strides_fit(path, cfg, built):
    features = built[str(path)]["features"]  # of an image of 256x256, after the neck
    channels = [shape[0] for shape in features]
    strides = [256 // shape[1] for shape in features if len(shape) == 3]
    model = cfg.model
    necks = model.get("neck") or [{}]
    given = (necks if isinstance(necks, list) else [necks])[0].get("in_channels")
    if model.backbone.type.removeprefix("mmvitconv.") in ARCHS:
        own = built[str(path)]
        declared_channels, declared_strides = own["declared"]
        assert declared_channels == own["channels"] or model.backbone.get("out_type")
        assert not own["strides"] or declared_strides == own["strides"]
    if isinstance(given, int) and not isinstance(necks, list) and "Pooling" in necks["type"]:
        assert channels == [model.head.in_channels]
    elif isinstance(given, int):  # of each map
        assert {given} == set(built[str(path)]["channels"])
    elif given is not None:
        assert given == built[str(path)]["channels"]
    if model.type == "ImageClassifier":
        assert [model.head.in_channels] == channels
    else:
        assert set(built[str(path)]["strides"]) <= set(strides)
    if "panoptic_head" in model:
        assert [list(model.panoptic_head[key]) for key in ("in_channels", "strides")] == [
            channels, strides
        ]  # fmt: skip
    for name in ("rpn_head", "bbox_head"):
        if "anchor_generator" in model.get(name, {}):
            given = model[name].in_channels
            assert given == (channels if isinstance(given, list) else channels[0])
            assert list(model[name].anchor_generator.strides) == strides
    for name in ("bbox", "mask"):
        if f"{name}_head" in model.get("roi_head", {}):
            extractor = model.roi_head[f"{name}_roi_extractor"]
            assert list(extractor.featmap_strides) == strides[: len(extractor.featmap_strides)]
            assert extractor.out_channels == channels[0]
            heads = model.roi_head[f"{name}_head"]
            for head in heads if isinstance(heads, list) else [heads]:  # one each in a cascade
                assert head.in_channels == channels[0]
                assert head.num_classes == number_of_classes(cfg)
    for name in ("decode_head", "auxiliary_head"):
        if name in model:
            head = model[name]
            assert list(head.get("strides", strides)) == strides
            indices = head.get("in_index", range(len(channels)))
            indices = [indices] if isinstance(indices, int) else indices
            given = [head.in_channels] if isinstance(head.in_channels, int) else head.in_channels
            assert list(given) == [channels[index] for index in indices]
            assert head.num_classes == number_of_classes(cfg)
            if "feature_strides" in head:
                assert list(head.feature_strides) == strides


def training_sets(cfg: Config) -> list:
    """The data set that is trained on, or those that are put together."""
    dataset = cfg.train_dataloader.dataset
    return dataset.datasets if dataset.type == "ConcatDataset" else [dataset]


def number_of_classes(cfg: Config) -> int:
    """Classes of the data set: its own list, else that of the public data set."""
    dataset = training_sets(cfg)[0]
    classes = dataset.get("metainfo", {}).get("classes")
    public = {"CocoDataset": 80, "ADE20KDataset": 150, "PascalVOCDataset": 21}
    public["CityscapesDataset"] = 19
    return len(classes) if classes else public[dataset.type]


@pytest.mark.smoke
@pytest.mark.parametrize("package", ["mmdet", "mmseg", "mmpretrain", "mmengine"])
def test_every_registry_finds_our_types(package):
    run_cold(COLD_REGISTRY.format(package=package))


def test_model_index_imports_every_metafile():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text("utf-8"))
    metafiles = sorted(ROOT.glob("configs/*/metafile.yml"))
    assert index["Import"] == [str(file.relative_to(ROOT)) for file in metafiles]
    assert {file.parent for file in metafiles} == {path.parent for path in PATHS}


def test_metafile_names_the_config(path):
    metafile = read_metafile(path.parent)
    assert (ROOT / metafile["Collections"][0]["README"]).is_file()
    (model,) = (model for model in metafile["Models"] if model["Name"] == path.stem)
    assert (ROOT / model["Config"]) == path
    assert ("Results" in model) != head_comment(path)["Published"].startswith("nothing")
    assert "Results" not in model or "not reproduced" in model["Published In"]


def _patterns(section: str) -> list[str]:
    """The patterns in the first column of a table, with braces written out."""
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    found = []
    for pattern in re.findall(r"`([^`]+)`", " ".join(rows)):
        before, braces, after = re.fullmatch(r"([^{]*)(?:{(.*)})?(.*)", pattern).groups("")
        found += [before + choice + after for choice in braces.split(",")]
    return found


@pytest.mark.parametrize("family", sorted(GRID))
def test_readmes_say_whose_each_recipe_is(family):
    text = (ROOT / "configs" / family / "README.md").read_text("utf-8")
    section = text.partition("## Whose recipe\n")[2].partition("\n## ")[0]
    patterns, names = _patterns(section), [p.stem for p in PATHS if p.parent.name == family]
    assert [n for n in names if not any(fnmatch(n, p) for p in patterns)] == []
    assert [p for p in patterns if not any(fnmatch(n, p) for n in names)] == []
