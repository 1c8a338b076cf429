"""Absent operators are found in a built model, without running it, and without false alarms."""

import runpy
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmcv.ops import batched_nms, border_align, fused_bias_leakyrelu, upfirdn2d
from mmengine.config import Config
from processes import ROOT
from recipes import CONFIGS, build
from torch import nn

from mmvitconv.apis import Predictor
from mmvitconv.cli import main
from mmvitconv.compat import MissingOperatorError, absent, ext


def scale(x: torch.Tensor) -> torch.Tensor:
    return border_align(x, x, 3)


def wrap(function):
    return lambda *args: function(*args)


class ByName(nn.Module):
    def forward(self, x):
        return border_align(x, x, 3)


class ByPackage(nn.Module):
    def forward(self, x):
        return [mmcv.ops.border_align(part, part, 3) for part in x]


class ByLocalImport(nn.Module):
    def predict(self, x):
        from mmcv.ops import border_align as align

        return align(x, x, 3)


class ByHelper(nn.Module):
    def forward(self, x):
        return scale(x)


class ByDecorator(nn.Module):
    forward = wrap(scale)


class ByProperty(nn.Module):
    @property
    def aligned(self):
        return scale(self.x)


class Coder:
    @staticmethod
    def decode(x):
        return scale(x)


class ByObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.coders = {"first": [Coder()]}
        self.coders["itself"] = self.coders


class ByAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.function = scale


class ByBase(ByName):
    pass


@pytest.mark.parametrize(
    "kind",
    [
        *(ByName, ByPackage, ByLocalImport, ByHelper, ByDecorator, ByProperty),
        *(ByObject, ByAttribute, ByBase, lambda: mmcv.ops.BorderAlign(3)),
    ],
)
def test_every_way_of_calling_is_found(kind):
    model = nn.Sequential(nn.Linear(2, 2), kind())
    found = [(name, operator) for name, _, operator in absent.find_absent(model)]
    assert found == [("1", "border_align_forward"), ("1", "border_align_backward")]
    with pytest.raises(
        MissingOperatorError,
        match=r"module '1' of the model \(\w+\) .* 'border_align_forward'.*pip install",
    ):
        absent.check_model(model)


class Head(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.test_cfg = {"rcnn": {"nms": {"type": kind, "iou_threshold": 0.5}}}

    def forward(self, boxes):
        return batched_nms(*boxes, self.test_cfg["rcnn"]["nms"])


@pytest.mark.parametrize("kind", ["nms", "soft_nms", "nms_rotated"])
def test_offered_suppression_in_settings(kind):
    absent.check_model(Head(kind))


def test_absent_suppression_in_settings():
    with pytest.raises(MissingOperatorError, match="'nms_quadri'"):
        absent.check_model(Head("nms_quadri"))


class WithNameOfItsOwn(nn.Module):
    def forward(self, x):
        return self.border_align(mmcv.ops, self.border_align(x))

    def border_align(self, x):
        return x


def test_own_names_are_no_alarm():
    absent.check_model(WithNameOfItsOwn())


class WithFormula(nn.Module):
    """mmcv has formulas in torch for these, used where there is no GPU."""

    def forward(self, x):
        return fused_bias_leakyrelu(upfirdn2d(x, x), x)


def test_formulas_for_the_cpu_are_no_alarm():
    absent.check_model(WithFormula())


@pytest.mark.parametrize(
    "name",
    [
        *("MaskedConv2d", "DeformConv2dPack", "ModulatedDeformConv2dPack", "CARAFEPack"),
        *("CrissCrossAttention", "MultiScaleDeformableAttention", "SimpleRoIAlign", "CornerPool"),
    ],
)
def test_modules_of_mmcv_that_work_are_no_alarm(name):
    arguments = {
        "CARAFEPack": (4, 2),
        "CrissCrossAttention": (4,),
        "MultiScaleDeformableAttention": (),
        "SimpleRoIAlign": (2, 1.0),
        "CornerPool": ("top",),
    }.get(name, (4, 4, 3))
    absent.check_model(getattr(mmcv.ops, name)(*arguments))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(path.name for path in CONFIGS.glob("[!_]*")))
def test_no_config_of_ours_is_an_alarm(family):
    for path in CONFIGS.glob(f"{family}/*.py"):
        absent.check_model(build(Config.fromfile(path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mmdet/*/dyhead/atss_r50-caffe_fpn_dyhead_1x_coco",
        "mmdet/*/guided_anchoring/ga-retinanet_r50_fpn_1x_coco",
        "mmdet/*/carafe/mask-rcnn_r50_fpn-carafe_1x_coco",
        "mmdet/*/dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco",
        "mmdet/*/deformable_detr/deformable-detr_r50_16xb2-50e_coco",
        "mmseg/*/psanet/psanet_r50-d8_4xb4-20k_voc12aug-512x512",
        "mmseg/*/ccnet/ccnet_r50-d8_4xb4-20k_voc12aug-512x512",
        "mmseg/*/mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024",
        "mmpretrain/*/resnet/resnet50_8xb32_in1k",
    ],
)
def test_no_model_that_works_is_an_alarm(name):
    (path,) = Path(mmcv.__file__).parents[1].glob(name.replace("*", ".mim/configs") + ".py")
    cfg = Config.fromfile(path)
    cfg.default_scope = name.split("/")[0]
    if "pretrained" in cfg.model:
        cfg.model.pretrained = None
    absent.check_model(build(cfg, "cpu"))


def test_compiled_operators_are_never_absent(monkeypatch):
    compiled = type(mmcv)("mmcv._ext")
    compiled.__file__ = "/site-packages/mmcv/_ext.so"
    monkeypatch.setitem(absent.sys.modules, "mmcv._ext", compiled)
    assert not list(absent.find_absent(ByName()))


def test_lists_hold_every_operator_once():
    offered, missing = absent.list_operators()
    names = [name for lists in (offered, missing) for part in lists.values() for name in part]
    assert len(names) == len(set(names))
    assert {name for part in offered.values() for name in part} == set(ext.__all__)


def test_stacks_page_is_up_to_date():
    script = runpy.run_path(str(ROOT / "tools/misc/write_operators.py"))
    assert script["main"](["--check"]) == 0


@pytest.mark.usefixtures("nuclei_root", "runner_state", "safe_loading")
def test_training_ends_before_it_begins(tmp_path, capsys):
    config = ROOT / "configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py"
    options = ("model.test_cfg.rcnn.nms.type=nms_quadri", "train_cfg.max_epochs=1")
    command = ["train", str(config), "--work-dir", str(tmp_path), "--cfg-options", *options]
    assert main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "the model (MaskRCNN) calls mmcv's operator 'nms_quadri'" in line
    assert not list(tmp_path.glob("*.pth"))
    with pytest.raises(MissingOperatorError, match="nms_quadri"):
        Predictor(config, None, "cpu", dict(option.split("=") for option in options))
