"""Which parameters of every config decay and at which rate they train, by the real constructors.

What is expected stands in tables here, by names of configs; the groups are those of the optimizer
that the config's constructor builds for the config's model.
"""

import json
from fnmatch import fnmatch
from functools import cache

import pytest
from recipes import CONFIGS, build, load, norm_parameters, parameter_groups, read
from torch import nn

NAMES = sorted(path.stem for path in CONFIGS.glob("*/*.py") if path.parent.name != "_base_")
# Names of what is added or looked up, of two and more dimensions.
TABLES = ("cls_token", "pos_embed", "global_token", "relative_position_bias_table", "gamma", "beta")
TABLES += ("static_key", "static_value", "static_kernel")
QUERIES = ("query_embed.weight", "query_feat.weight", "level_embed.weight")
NORM, FLAT = {"norm"}, {"norm", "bias", "scale"}
# The kinds of parameters that are not decayed, by the first pattern that fits a name.
EXEMPT = {
    # docs/specs: ParC-Net decays everything, in all its published recipes; FCViT in detectors and
    # Semantic FPN, whose recipe is everybody's here; MMEngine's default in first runs
    "parcnet_*_imagenet": set(),
    "ssdlite_*": set(),
    "deeplabv3_*": set(),
    "maskrcnn_fcvit_*_lsj_100e_coco": FLAT,
    "maskrcnn_fcvit_*_coco": set(),
    "fpn_lightvit_*": {*NORM, "table"},
    "fpn_dynconv_*": {*FLAT, "table"},
    "fpn_*": set(),
    "convmixer_256_8_*cifar10": set(),
    "*_nuclei": set(),
    "*_trees": set(),
    "*_mnist": set(),
    # mmdet's DINO decays everything; families keep their exemptions
    "dino_lightvit_*": {"table"},
    "dino_dynconv_*": {*FLAT, "table"},
    "dino_*": set(),
    "mask2former_lightvit_*": {*FLAT, "table", "query"},
    "mask2former_dynconv_*": {*FLAT, "table", "query"},
    "mask2former_*": {*FLAT, "query"},
    "*_lightvit_*_lsj_100e_coco": {*FLAT, "table"},
    # LightViT: classifiers as timm, detectors with norms and tables
    "lightvit_*_imagenet": {*FLAT, "table"},
    "*_lightvit_*": {*NORM, "table"},
    # DeiT and Swin: nothing of one dimension, no table; so Fast-ParC of both
    "*dynconv_*": {*FLAT, "table"},
    "deit_*": {*FLAT, "table"},
    "*fastparc_deit_*": {*FLAT, "table"},
    "*fastparc_swin_*": {*FLAT, "table"},
    # the field's: norms; ConvNeXt's and its followers': nothing of one dimension
    "*_parcnet_*": NORM,
    "*_convmixer_*_lsj_100e_coco": FLAT,
    "convmixer_*_imagenet": FLAT,
    "*_convmixer_*": NORM,
    "upernet_fcvit_*": NORM,
    "upernet_*_cityscapes": NORM,
    "*": FLAT,
}
# Factors on the rate: of the backbone's parameters, and of all else.
RATES = {
    "dino_*": ({0.1}, {1}),
    "mask2former_*": ({0.1}, {1}),
    "deeplabv3_*": ({1}, {10}),
    "maskrcnn_*parc_convnext_*_lsj_100e_coco": ({1}, {1}),
    # docs/specs/parc.md#6-published-recipes: 0.7 over six layers, 0.9 over four stages and a stem
    "maskrcnn_parc_convnext_gcc_t_*": ({0.85**power for power in range(17)}, {1}),  # deeper
    **dict.fromkeys(
        ("cascade_maskrcnn_*convnext_*", "maskrcnn_parc_convnext_*", "maskrcnn_convnext_*"),
        ({0.7**power for power in range(8)}, {1}),
    ),
    **dict.fromkeys(
        ("upernet_parc_convnext_*_ade20k", "upernet_convnext_*"),
        ({0.9**power for power in (0, 3, 4, 5, 6, 7)}, {1}),
    ),
    "*": ({1}, {1}),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def first(table: dict, name: str):
    """The entry of the first pattern that fits."""
    return next(value for pattern, value in table.items() if fnmatch(name, pattern))


def kind_of(name: str, parameter: nn.Parameter, norms: set[str]) -> str:
    """What a parameter is, by its place, its name and its dimensions."""
    if name in norms:
        return "norm"
    if name.endswith(QUERIES):
        return "query"
    if parameter.ndim == 1:
        return "bias" if name.endswith("bias") else "scale"
    return "table" if name.endswith(TABLES) else "weight"


@cache
def alike() -> dict[str, list[str]]:
    """Configs of one optimizer and one structure, whose archs alone differ."""
    groups: dict[str, list[str]] = {}
    for name in NAMES:
        cfg = read(next(CONFIGS.glob(f"*/{name}.py")))
        model = cfg.model.to_dict()
        model["backbone"] = {**model["backbone"], "arch": "", "init_cfg": None}
        kinds = [model[key]["type"] for key in ("decode_head", "backbone") if key in model]
        mixer = model["backbone"].get("mixer")
        structure = [model["type"], *kinds, mixer, cfg.optim_wrapper.to_dict()]
        expected = [sorted(first(EXEMPT, name)), *map(sorted, first(RATES, name))]
        groups.setdefault(json.dumps([structure, expected], sort_keys=True), []).append(name)
    return {names[0]: names for names in groups.values()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each group."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", sorted(alike()))


def test_groups_hold_every_config():
    assert sorted(name for names in alike().values() for name in names) == NAMES


def test_decay_and_rate(name):
    cfg = load(name)
    model = build(cfg)
    optimizer = cfg.optim_wrapper.optimizer
    groups = parameter_groups(model, cfg.optim_wrapper, cfg.default_scope)
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert groups.keys() >= trained.keys()  # without exemptions MMEngine lists what is frozen too
    norms = norm_parameters(model)
    decays: dict[str, set[float]] = {}
    rates: dict[bool, set[float]] = {True: set(), False: set()}
    for key, parameter in trained.items():
        group = groups[key]
        decays.setdefault(kind_of(key, parameter, norms), set()).add(group["weight_decay"])
        rates[key.startswith("backbone.")].add(group["lr"] / optimizer.lr)
    exempt = first(EXEMPT, name)
    assert decays == {kind: {0 if kind in exempt else optimizer.weight_decay} for kind in decays}
    for found, expected in zip((rates[True], rates[False]), first(RATES, name), strict=True):
        for rate in found:
            assert any(rate == pytest.approx(factor) for factor in expected), rate
        assert len({round(rate, 6) for rate in found}) == len(expected)
