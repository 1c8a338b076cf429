"""The recipes and texts of the dynconv configs against docs/specs/dynconv.md#0-paper, #3-anchors,
#7-models."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from recipes import (
    build,
    check_field_settings,
    check_head_and_mixes,
    check_test_pipelines,
    check_training_pipeline,
    decays,
    learning_rates,
    load,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/dynconv"
WORDS = ("softmax", "lnrelu", "dwvit")
DEIT = [f"dynconv_deit_{arch}_{word}_imagenet" for arch in ("tiny", "small") for word in WORDS]
SWIN = [f"dynconv_swin_{arch}_{word}_imagenet" for arch in ("tiny", "small") for word in WORDS]
DEIT += [f"dynconv_deit_base_{word}_imagenet" for word in WORDS]
SWIN += [f"dynconv_swin_base_{word}_imagenet" for word in WORDS]
DEIT += [f"deit_{arch}_imagenet" for arch in ("tiny", "small", "base")]  # with a class token
IMAGENET = [*DEIT, *SWIN]
VITDET = "maskrcnn_dynconv_deit_small_lnrelu_coco"
RETINANET = "retinanet_dynconv_swin_tiny_dwvit_coco"
MASKRCNN = [f"maskrcnn_dynconv_swin_tiny_{word}_coco" for word in WORDS[1:]]
DETECTORS = [*MASKRCNN, VITDET, RETINANET]
SEGMENTORS = [f"upernet_dynconv_swin_tiny_{word}_ade20k" for word in WORDS[1:]]
NUCLEI = "maskrcnn_dynconv_swin_nano_dwvit_nuclei"
MNIST = "dynconv_deit_nano_lnrelu_mnist"
SMALL = [NUCLEI, MNIST]
ALL = [*IMAGENET, *DETECTORS, *SEGMENTORS, *SMALL]
# Parameters with 1000 classes: DeiT's and Swin's. Mean pooling has no class token and no position
# of it. LN+ReLU adds two per head. DW-ViT adds 100 per channel of a block and has no tables of
# relative positions.
SOFTMAX_PARAMETERS = {
    "deit_tiny": 5_717_416,
    "deit_small": 22_050_664,
    "deit_base": 86_567_656,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
}
DEPTHS = {  # of blocks with each width
    "deit_tiny": {192: 12},
    "deit_small": {384: 12},
    "deit_base": {768: 12},
    "swin_tiny": {96: 2, 192: 2, 384: 6, 768: 2},
    "swin_small": {96: 2, 192: 2, 384: 18, 768: 2},
    "swin_base": {128: 2, 256: 2, 512: 18, 1024: 2},
}
HEAD_CHANNELS = {"deit": 64, "swin": 32}
WINDOW_TABLE = (2 * 7 - 1) ** 2  # per head
TABLES = ("cls_token", "pos_embed", "relative_position_bias_table", "gamma", "beta")
TABLES += ("static_key", "static_value", "static_kernel")  # of two and more dimensions
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mmseg's, about its own code


def size_of(name: str) -> str:
    return re.search(r"(deit|swin)_(tiny|small|base)", name).group()


def has_token(name: str) -> bool:
    return name.startswith("deit")


def head_comment(name: str) -> str:
    return re.match(r"(?:#.*\n)+", (CONFIGS / f"{name}.py").read_text("utf-8")).group()


def test_every_classifier_is_tested():
    assert sorted(IMAGENET) == sorted(path.stem for path in CONFIGS.glob("*_imagenet.py"))


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_schedule(name):
    """300 epochs: a warm-up of 5 (DeiT) or 20 (Swin), then a cosine to a hundredth of the rate."""
    cfg, length = load(name), 5
    assert cfg.train_cfg.max_epochs == 300
    warmup = 5 if name in DEIT else 20
    rates = learning_rates(cfg, length)
    epochs = np.arange(300 * length) / length
    expected = np.where(
        epochs < warmup,
        1e-3 * epochs / warmup,
        1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * (epochs - warmup) / (300 - warmup))) / 2,
    )
    # DeiT's cosine has one rate per epoch, Swin's parts have one per iteration.
    steps = 1 if name in DEIT else length
    np.testing.assert_allclose(rates, expected, atol=1.01e-3 / warmup / steps)
    assert rates[0] <= 1e-6
    assert rates.max() == pytest.approx(1e-3, rel=1e-3)
    assert rates.argmax() / length == pytest.approx(warmup, abs=1.1)
    assert rates[-1] == pytest.approx(1e-5, abs=1e-7)


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_settings(name):
    cfg = load(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ("AdamW", pytest.approx(1e-3))
    assert optimizer.weight_decay == 0.05
    assert "betas" not in optimizer, "PyTorch's, 0.9 and 0.999"
    assert cfg.optim_wrapper.get("clip_grad") == (None if name in DEIT else {"max_norm": 5.0})
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
    model = cfg.model
    check_head_and_mixes(cfg, [("Mixup", 0.8), ("CutMix", 1.0)])
    assert model.neck == (None if has_token(name) else {"type": "GlobalAveragePooling"})
    assert model.head.init_cfg == {"type": "TruncNormal", "layer": "Linear", "std": 0.02}
    rate = 0.1 if name in DEIT else {"tiny": 0.2, "small": 0.3, "base": 0.5}[size_of(name)[5:]]
    assert model.backbone.drop_path_rate == rate
    assert tuple(model.backbone.out_indices) == ((11,) if name in DEIT else (3,))


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_pipelines(name):
    check_training_pipeline(load(name), {"bicubic"})
    check_test_pipelines(load(name), 256)


def preset_of(name: str) -> str:
    """The preset that the name of a config means."""
    (word,) = {"softmax"} if has_token(name) else set(name.split("_")) & set(WORDS)
    softmax = "swin" if "swin" in name else "deit"
    return {"softmax": softmax, "lnrelu": "ln_relu", "dwvit": "dwvit"}[word]


@pytest.mark.parametrize("name", ALL)
def test_mixers(name):
    """Every block has the mixer that the name means, with the reach and shift of its place."""
    cfg, preset = load(name), preset_of(name)
    assert cfg.model.backbone.mixer == preset
    backbone = build(cfg).backbone
    swin, pooled = "swin" in name, preset == "dwvit"
    rows = backbone.stages if swin else [backbone.blocks]
    for row in rows:
        for index, block in enumerate(row):
            mixer = block.mixer
            kernel, reach, size, shift = "pairwise", "global", 7, 0
            if pooled:
                kernel, reach = "pooled", "local"
            elif swin:
                reach, shift = "window", 3 * (index % 2)
            elif name == VITDET and index not in (2, 5, 8, 11):
                reach, size = "window", 14
            assert (mixer.kernel, mixer.reach) == (kernel, reach)
            assert getattr(mixer, "shift", 0) == shift
            assert reach == "global" or mixer.size == size
            act = mixer.act if pooled else mixer.rule.act
            assert act == ("softmax" if preset in ("deit", "swin") else "relu")
            expected = {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}
            if pooled:
                expected |= {"static_key", "static_value", "norm.weight", "norm.bias"}
            if preset == "ln_relu":
                expected |= {"gamma", "beta"}
            if swin and not pooled:
                expected |= {"relative_position_bias_table"}
            assert {key for key, _ in mixer.named_parameters()} == expected
    if name in IMAGENET:
        assert [len(row) for row in rows] == list(DEPTHS[size_of(name)].values())


@pytest.mark.parametrize("name", IMAGENET)
def test_parameters(name):
    size = size_of(name)
    trunk, channels_per_head = size.partition("_")[0], HEAD_CHANNELS[size.partition("_")[0]]
    channels = sum(width * depth for width, depth in DEPTHS[size].items())
    heads = channels // channels_per_head
    expected = SOFTMAX_PARAMETERS[size]
    if trunk == "deit" and not has_token(name):
        expected -= 2 * next(iter(DEPTHS[size]))
    if "lnrelu" in name:
        expected += 2 * heads
    elif "dwvit" in name:
        expected += 100 * channels - (WINDOW_TABLE * heads if trunk == "swin" else 0)
    model = build(load(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    scores = model.eval()(torch.empty(2, 3, 224, 224, device="meta"), mode="tensor")
    assert scores.shape == (2, 1000)


def check_decays(cfg: Config) -> set[str]:
    """Nothing of one dimension and no table is decayed; gives the kinds of tables."""
    model = build(cfg)
    parameters = dict(model.named_parameters())
    tables = {
        key for key, parameter in parameters.items() if parameter.ndim > 1 and key.endswith(TABLES)
    }
    exempt = tables | {key for key, parameter in parameters.items() if parameter.ndim == 1}
    found = decays(cfg, model)
    assert {key for key, decay in found.items() if decay == 0} == exempt
    return {key.rpartition(".")[2] for key in tables}


@pytest.mark.parametrize("name", [*IMAGENET, *DETECTORS, *SEGMENTORS])
def test_weight_decay(name):
    expected = {"pos_embed"} if "deit" in name else set()
    if has_token(name):
        expected |= {"cls_token"}
    if "dwvit" in name:
        expected |= {"static_key", "static_value"}
    elif "swin" in name:
        expected |= {"relative_position_bias_table"}
    assert check_decays(load(name)) == expected


@pytest.mark.parametrize(
    ("mixer", "tables"),
    [
        *((preset, set()) for preset in ("relu_n", "rela", "sima", "natt", "dwhead")),
        *((preset, set()) for preset in ("ddw", "iddw", "dw")),
        ({"preset": "natt", "bias": "static_kernel"}, {"static_kernel"}),
        (
            {"preset": "ln_relu", "reach": "window", "bias": "rel_table", "affine": "key"},
            {"relative_position_bias_table", "gamma", "beta"},
        ),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_weight_decay_of_other_mixers(mixer, tables):
    """A config keeps its exemptions when its mixer is exchanged; generators are decayed."""
    cfg = load(DEIT[0])
    cfg.model.backbone.mixer = mixer
    assert check_decays(cfg) == tables | {"pos_embed"}


@pytest.mark.parametrize(
    ("names", "lr", "weight_decay", "length"),
    [(DETECTORS, 1e-4, 0.05, 12), (SEGMENTORS, 6e-5, 0.01, 160_000)],
)
def test_dense_settings(names, lr, weight_decay, length):
    for name in names:
        cfg = load(name)
        check_field_settings(cfg, lr, weight_decay, length)
        assert cfg.model.backbone.drop_path_rate == (0.1 if name == VITDET else 0.2)
        assert "--weights FILE" in head_comment(name)


def test_vitdet_form():
    """Windows of 14 but in four blocks, and a pyramid of the last map that needs no FPN."""
    cfg = load(VITDET)
    model = build(cfg)
    assert tuple(cfg.model.backbone.global_blocks) == (2, 5, 8, 11)
    reaches = [block.mixer.reach for block in model.backbone.blocks]
    assert reaches == ["window", "window", "global"] * 4
    assert (model.neck.mode, model.neck.in_channels, model.neck.out_channels) == ("last", 384, 256)
    assert tuple(model.backbone.strides) == (16,)
    assert model.neck.strides == (4, 8, 16, 32, 64)
    assert cfg.model.data_preprocessor.pad_size_divisor % 32 == 0
    features = model.extract_feat(torch.empty(1, 3, 256, 352, device="meta"))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (256, math.ceil(256 / stride), math.ceil(352 / stride)) for stride in (4, 8, 16, 32, 64)
    ]


@pytest.mark.parametrize("name", [*MASKRCNN, RETINANET, *SEGMENTORS, NUCLEI])
def test_swin_maps(name):
    """Maps of Swin's strides, also of images that are no multiple of 32."""
    cfg = load(name)
    model = build(cfg)
    width = 32 if name == NUCLEI else 96
    levels = range(1, 4) if name == RETINANET else range(4)
    maps = model.backbone(torch.empty(1, 3, 230, 250, device="meta"))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (width * 2**level, math.ceil(230 / 2 ** (level + 2)), math.ceil(250 / 2 ** (level + 2)))
        for level in levels
    ]
    head = cfg.model.get("decode_head") or cfg.model.neck
    assert list(head.in_channels) == list(model.backbone.out_channels)


def test_small_configs():
    """From scratch, in minutes on a CPU."""
    for name, most, rate, epochs in ((NUCLEI, 5e6, 1e-3, 20), (MNIST, 1e6, 3e-3, 15)):
        cfg = load(name)
        assert cfg.randomness.seed == 0
        assert cfg.optim_wrapper.optimizer.lr == rate
        assert cfg.train_cfg.max_epochs == epochs
        rates = learning_rates(cfg, 60)
        assert rates.max() == pytest.approx(rate, rel=0.02)
        assert rates[-1] == pytest.approx(1e-5, abs=1e-5)
        assert cfg.optim_wrapper.clip_grad == {"max_norm": 5.0}
        assert "init_cfg" not in cfg.model.backbone
        assert "drop_path_rate" not in cfg.model.backbone
        model = build(cfg)
        assert sum(parameter.numel() for parameter in model.backbone.parameters()) < most
    backbone = load(MNIST).model.backbone
    (resize,) = [
        step for step in load(MNIST).train_dataloader.dataset.pipeline if step.type == "Resize"
    ]
    assert resize.scale == backbone.img_size, "the position embedding needs no resizing"
    assert backbone.img_size % backbone.patch_size == 0


@pytest.mark.parametrize("name", ALL)
def test_published_line(name):
    published = re.search(r"^# Published: (.*(?:\n#   +.+)*)", head_comment(name), re.MULTILINE)[1]
    if "softmax" in name or has_token(name):  # the figures: test_sources.py
        assert ("DeiT" if "deit" in name else "Swin") in published or "github.com" in published
    elif name in SMALL:
        assert published == "nothing: the data set is ours, for a first run on a CPU"
    else:
        assert published == (
            "nothing; the design is ours, following the abstract of arXiv:2309.10713"
        )


def test_nothing_claims_to_be_the_paper():
    for path in sorted(CONFIGS.iterdir()):
        if path.is_file():
            text = path.read_text("utf-8")
            assert not re.search(r"\breproduc(es|tion|ing)\b", text, re.IGNORECASE), path.name
    readme = (CONFIGS / "README.md").read_text("utf-8")
    assert "following the abstract" in readme
    assert "Formulas, tables, training settings and results were not available." in readme


def test_readme():
    """Every preset has a line, and what is named exists and works."""
    from mmvitconv.models.layers import MIXERS

    text = (CONFIGS / "README.md").read_text("utf-8")
    table = text.split("| preset |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(MIXERS)
    for path in set(re.findall(r"(?:tools|configs)/[\w/]+\.py", text)):
        assert (ROOT / path).is_file(), path
    (snippet,) = re.findall(r'```python\n(_base_ = ".*?)```', text, flags=re.DOTALL)
    base, _, rest = snippet.partition("\n")
    (parent,) = re.findall(r'"\./(\w+)\.py"', base)
    scope: dict = {}
    exec(rest, scope)
    cfg = load(parent)
    cfg.merge_from_dict({"model": scope["model"]})
    assert cfg.model.backbone.mixer == {"preset": "dwvit", "size": 5}
    block = build(cfg).backbone.stages[0][0]
    assert block.mixer.static_key.shape == (96, 5, 5)
    (option,) = re.findall(r"--cfg-options model\.backbone\.mixer=(\w+)", text)
    cfg = load(MNIST)
    cfg.merge_from_dict({"model.backbone.mixer": option})
    assert "gamma" not in dict(build(cfg).backbone.blocks[0].mixer.named_parameters())
