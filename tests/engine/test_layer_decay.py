import logging
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, DefaultScope
from torch import nn

from mmvitconv.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmvitconv.errors import UserError

OPTIMIZER = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}
CONVNEXT = {
    "type": "mmpretrain.ConvNeXt",
    "arch": {"depths": [1, 1, 2, 1], "channels": [8, 16, 16, 16]},
    "out_indices": (0, 1, 2, 3),
    "gap_before_final_norm": False,
}


class Staircase(nn.Module):
    """A backbone of three layers: stem, body and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        assert param_name.startswith(prefix)
        return ["stem", "body", "norm"].index(param_name[len(prefix) :].split(".")[0]), 3


class Model(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 2)


def build_groups(model: nn.Module, **options) -> list[dict]:
    config = {
        "type": "mmvitconv.LayerDecayOptimWrapperConstructor",
        "optim_wrapper_cfg": {"type": "OptimWrapper", "optimizer": dict(OPTIMIZER)},
        "paramwise_cfg": options,
    }
    return OPTIM_WRAPPER_CONSTRUCTORS.build(config)(model).optimizer.param_groups


def per_parameter(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)]: (group["lr"], group["weight_decay"])
        for group in groups
        for value in group["params"]
    }


def test_rates_of_a_small_model_by_hand() -> None:
    model = Model(Staircase())
    groups = build_groups(
        model,
        layer_decay_rate=0.5,
        norm_decay_mult=0.0,
        bias_decay_mult=0.5,
        custom_keys={"body": {"lr_mult": 3.0}, "body.bias": {"decay_mult": 0.1}},
    )
    assert per_parameter(model, groups) == {
        "backbone.stem.weight": pytest.approx((1e-3 * 0.25, 0.05)),
        "backbone.stem.bias": pytest.approx((1e-3 * 0.25, 0.025)),
        "backbone.body.weight": pytest.approx((1e-3 * 0.5 * 3, 0.05)),
        # the longest key alone counts, as in MMEngine
        "backbone.body.bias": pytest.approx((1e-3 * 0.5, 0.005)),
        "backbone.norm.weight": pytest.approx((1e-3, 0.0)),
        "backbone.norm.bias": pytest.approx((1e-3, 0.0)),
        "head.weight": pytest.approx((1e-3, 0.05)),
        "head.bias": pytest.approx((1e-3, 0.025)),
    }
    assert all("lr_mult" not in group for group in groups)


def test_equal_settings_share_a_group_and_frozen_parameters_are_left_out() -> None:
    model = Model(Staircase())
    model.backbone.stem.requires_grad_(False)
    groups = build_groups(model, layer_decay_rate=0.5, flat_decay_mult=0.0)
    sizes = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    # body weight, body bias, head weight, and norm with the head's bias
    assert sizes == {(5e-4, 0.05): 1, (5e-4, 0.0): 1, (1e-3, 0.05): 1, (1e-3, 0.0): 3}
    assert len(groups) == 4


class Wrapper(nn.Module):
    """Holds two models, like teacher and student."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = Model(Staircase())
        self.student = Model(Staircase())


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Staircase(), "stem.weight"),
        (Wrapper(), "student.backbone.stem.weight"),
        (Wrapper(), "teacher.backbone.stem.weight"),
    ],
)
def test_backbone_is_found_wherever_it_is(model: nn.Module, name: str) -> None:
    rates = per_parameter(model, build_groups(model, layer_decay_rate=0.5))
    assert rates[name][0] == pytest.approx(2.5e-4)


def test_model_behind_a_distributed_wrapper() -> None:
    inner = Model(Staircase())
    wrapped = nn.DataParallel(inner)
    rates = per_parameter(inner, build_groups(wrapped, layer_decay_rate=0.5))
    assert rates["backbone.body.weight"][0] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    "backbone",
    [
        CONVNEXT,
        {
            "type": "mmpretrain.VisionTransformer",
            "arch": {"embed_dims": 16, "num_layers": 3, "num_heads": 2, "feedforward_channels": 16},
            "img_size": 32,
            "patch_size": 16,
        },
    ],
    ids=["convnext", "vit"],
)
def test_same_settings_as_mmpretrain_for_a_classifier(backbone: dict) -> None:
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor

    model = MODELS.build(
        {
            "type": "mmpretrain.ImageClassifier",
            "data_preprocessor": {"type": "mmpretrain.ClsDataPreprocessor"},
            "backbone": dict(backbone),
            "head": {
                "type": "mmpretrain.LinearClsHead",
                "num_classes": 2,
                "in_channels": 16,
                "loss": {"type": "mmpretrain.CrossEntropyLoss"},
            },
        }
    )
    options = {
        "layer_decay_rate": 0.7,
        "norm_decay_mult": 0.1,
        "bias_decay_mult": 0.2,
        "flat_decay_mult": 0.3,
        "custom_keys": {".cls_token": {"decay_mult": 0.0}, ".pos_embed": {"decay_mult": 0.5}},
    }
    wrapper = {"type": "OptimWrapper", "optimizer": dict(OPTIMIZER)}
    theirs = LearningRateDecayOptimWrapperConstructor(wrapper, dict(options))(model)
    expected = per_parameter(model, theirs.optimizer.param_groups)
    ours = build_groups(model, **options)
    actual = per_parameter(model, ours)
    assert expected.keys() == actual.keys()
    for name in expected:
        assert actual[name] == pytest.approx(expected[name]), name
    assert len(ours) < len(theirs.optimizer.param_groups)


def test_detector_by_hand() -> None:
    configs = Path(mmdet.__file__).parent / ".mim" / "configs"
    settings = Config.fromfile(configs / "retinanet" / "retinanet_r50_fpn_1x_coco.py").model
    settings.backbone = CONVNEXT
    settings.neck.in_channels = [8, 16, 16, 16]
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(settings)
    rates = per_parameter(model, build_groups(model, layer_decay_rate=0.8))
    layer, layers = model.backbone.get_layer_depth("backbone.stages.0.0.gamma", "backbone.")
    assert rates["backbone.stages.0.0.gamma"][0] == pytest.approx(
        1e-3 * 0.8 ** (layers - layer - 1)
    )
    # the stem is layer 0 of the backbone, whose last layer number belongs to the heads
    assert rates["backbone.downsample_layers.0.0.weight"][0] == pytest.approx(
        1e-3 * 0.8 ** (layers - 1)
    )
    assert all(rate[0] == 1e-3 for name, rate in rates.items() if not name.startswith("backbone"))


def test_log_is_one_line_per_rate(caplog: pytest.LogCaptureFixture) -> None:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        build_groups(Model(Staircase()), layer_decay_rate=0.5, norm_decay_mult=0.0)
    finally:
        logger.removeHandler(caplog.handler)
    (message,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]
    assert message.splitlines()[1] == "  lr x 0.25 = 0.00025: 2 tensors in 1 group(s)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay_rat": 0.5}, "did you mean 'layer_decay_rate'"),
        ({"layer_decay_rate": 1.5}, "got 1.5"),
        ({"layer_decay_rate": 0}, "got 0"),
        ({"backbone_lr_mult": 0}, "backbone_lr_mult must be a positive number, got 0"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LayerDecayOptimWrapperConstructor({"optimizer": dict(OPTIMIZER)}, options)


def test_backbone_without_depth() -> None:
    with pytest.raises(UserError, match=r"Conv2d \(at backbone\) has none"):
        build_groups(Model(nn.Conv2d(3, 4, 3)), layer_decay_rate=0.5)


def test_factor_of_the_backbone_leaves_weight_decay_alone() -> None:
    """Also of one without depths, where there is no layer-wise decay."""
    model = Model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    found = per_parameter(model, build_groups(model, backbone_lr_mult=0.1, norm_decay_mult=0.0))
    decay = OPTIMIZER["weight_decay"]
    assert found["backbone.0.weight"] == pytest.approx((1e-4, decay))
    assert found["backbone.1.weight"] == pytest.approx((1e-4, 0))
    rest = [value for name, value in found.items() if not name.startswith("backbone")]
    assert rest == [pytest.approx((1e-3, decay))] * len(rest)


def test_optimizer_state_survives_a_new_construction() -> None:
    model = Model(Staircase())
    options = {"layer_decay_rate": 0.5, "norm_decay_mult": 0.0}
    constructor = LayerDecayOptimWrapperConstructor(
        {"type": "OptimWrapper", "optimizer": dict(OPTIMIZER)}, options
    )
    first, second = constructor(model), constructor(model)
    assert isinstance(first, OPTIM_WRAPPERS.get("OptimWrapper"))
    sum(value.square().sum() for value in model.parameters()).backward()
    first.step()
    second.load_state_dict(first.state_dict())
    for name, value in model.named_parameters():
        moments = [wrapper.optimizer.state[value]["exp_avg"] for wrapper in (first, second)]
        torch.testing.assert_close(*moments, msg=name)
