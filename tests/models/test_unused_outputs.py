"""Heads take of a pyramid what they need: every parameter has a gradient nevertheless.

Whether DistributedDataParallel is content, two processes find out for all heads and backbones: each
runs this file as a script.
"""

import copy
import sys
import traceback
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, shallow
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from processes import join_ranks, run_ranks
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mmvitconv.models import IsotropicPyramid, LightViTFPN
from mmvitconv.models.base import PyramidBackbone

SIDE = 64
CLASSES = 3
ISOTROPIC = {
    "ConvMixer": {"embed_dims": 16, "depth": 4, "kernel_size": 3, "patch_size": 8},
    "DynConvViT": {"embed_dims": 16, "depth": 6, "num_heads": 2},
}


def arch_of(family: str) -> dict[str, Any]:
    """A small architecture with several outputs."""
    return ISOTROPIC.get(family) or shallow(family)


def build(family: str, **options: Any) -> PyramidBackbone:
    return FAMILIES[family](arch_of(family), **options)


# --- one process: each gradient is that without unused outputs, or zero


def isotropic(mode: str, indices: tuple[int, ...]) -> tuple[nn.Module, list[Tensor]]:
    count = len(indices) if mode == "taps" else 4
    return IsotropicPyramid(8, 16, mode, out_indices=indices), [torch.randn(2, 8, 8, 8)] * count


def fpn(extra: int) -> tuple[nn.Module, list[Tensor]]:
    sizes = ((4, 16), (6, 8), (8, 4))
    neck = LightViTFPN([channels for channels, _ in sizes], 8, 4 + extra, extra)
    return neck, [torch.randn(2, channels, side, side) for channels, side in sizes]


CASES = {
    **{name: lambda name=name: (build(name), torch.randn(2, 3, SIDE, SIDE)) for name in FAMILIES},
    "frozen": lambda: (build("FCViT", frozen_stages=1), torch.randn(2, 3, SIDE, SIDE)),
    "recomputed": lambda: (build("FCViT", with_cp=True), torch.randn(2, 3, SIDE, SIDE)),
    "taps": lambda: isotropic("taps", (0, 1, 2, 3)),
    "two taps": lambda: isotropic("taps", (1, 3)),
    "last": lambda: isotropic("last", (0, 1, 3)),
    "no finer levels": lambda: fpn(0),
    "finer levels": lambda: fpn(2),
}


def gradients(model: nn.Module, x: Any, taken: tuple[int, ...]) -> dict[str, Tensor | None]:
    model.zero_grad()
    torch.manual_seed(1)  # for dropout
    sum(out.sin().sum() for i, out in enumerate(model(x)) if i in taken).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("case", CASES)
def test_unused_parameters_get_zeros_and_others_what_they_would(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = CASES[case]()
    model.train()
    xs = [x] if isinstance(x, Tensor) else x
    for one in xs:
        one.requires_grad_()
    count = len(model(x))
    wants = [out.requires_grad for out in model(x)]
    module = sys.modules[type(model).__module__]
    if isinstance(model, PyramidBackbone):
        module = sys.modules[PyramidBackbone.__module__]
    sets = [s for n in range(1, count + 1) for s in combinations(range(count), n)]
    unused: set[str] = set()
    for taken in sets:
        found = gradients(model, x, taken)
        with monkeypatch.context() as patch:
            patch.setattr(module, "with_zero_gradients", lambda outs, parts: tuple(outs))
            plain = gradients(model, x, taken)
            assert [out.requires_grad for out in model(x)] == wants
        unused |= {name for name, gradient in plain.items() if gradient is None}
        for name, gradient in plain.items():
            expected = torch.zeros_like(found[name]) if gradient is None else gradient
            assert torch.equal(found[name], expected), (taken, name)
    assert unused


@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_behind_what_overflows(family: str) -> None:
    """Nothing is computed for an output that nobody takes: infinities in it are not multiplied."""
    model = build(family).train()
    with torch.no_grad():
        for module in model.stage_modules(model.num_stages - 1):
            for parameter in module.parameters():
                parameter.fill_(float("inf"))
    model(torch.randn(2, 3, SIDE, SIDE))[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_each_backward_pass_has_its_own_outputs() -> None:
    """What one pass through a graph took is forgotten in the next."""
    model = build("FCViT")
    outs = model(torch.randn(2, 3, SIDE, SIDE))
    norm, last = model.norm0.weight, model.norm3.weight
    torch.autograd.grad(outs[3].sin().sum(), model.patch_embeds[0].proj.weight, retain_graph=True)
    (zero,) = torch.autograd.grad(outs[0].sin().sum(), last, retain_graph=True)
    assert not zero.any()
    gradients = torch.autograd.grad(outs[3].sin().sum(), (norm, last), create_graph=True)
    assert not gradients[0].any()
    assert gradients[1].any()
    sum(gradient.square().sum() for gradient in gradients).backward()
    assert last.grad.any()


def test_outputs_may_be_changed_in_place() -> None:
    outs = build("FCViT")(torch.randn(2, 3, SIDE, SIDE))
    sum(out.relu_().sum() for out in outs).backward()


@pytest.mark.graph
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_compiled_model_has_all_gradients(family: str) -> None:
    model = build(family)

    def loss(x: Tensor) -> Tensor:
        return model(x)[1].sin().sum()

    torch._dynamo.reset()
    loss = torch.compile(loss, backend="aot_eager", fullgraph=True)
    loss(torch.randn(2, 3, SIDE, SIDE)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_have_the_strides_of_parameters(family: str, layout: torch.memory_format) -> None:
    """Otherwise DistributedDataParallel warns and is slower."""
    model = build(family)
    outs = model(torch.randn(2, 3, SIDE, SIDE).contiguous(memory_format=layout))
    sum(out.sin().sum() for out in outs).backward()
    strides = {name: (p.grad.stride(), p.stride()) for name, p in model.named_parameters()}
    assert {name: pair for name, pair in strides.items() if pair[0] != pair[1]} == {}


# --- two processes: heads of mmdet and mmseg that no config here has

HEAD = {"num_classes": CLASSES, "in_channels": 8, "feat_channels": 8}
STRIDES = [8, 16, 32, 64, 128]
BOXES = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1,
         "strides": STRIDES}  # fmt: skip
ASSIGNED = {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1,
            "debug": False}  # fmt: skip
QUALITY = {"loss_cls": {"type": "QualityFocalLoss"}}
IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0,
       "ignore_iof_thr": -1}  # fmt: skip
GN = {"norm_cfg": {"type": "GN", "num_groups": 2}, "loss_bbox": {"type": "GIoULoss"}}


def one_stage(type_: str, head: dict, train: dict, extra: str = "on_output") -> dict[str, Any]:
    """A detector that does not use the finest map, as those of mmdet with RetinaNet's neck."""
    fpn = {"type": "mmdet.FPN", "start_level": 1, "add_extra_convs": extra, "num_outs": 5}
    head = {"type": f"mmdet.{type_}Head", "stacked_convs": 1, **HEAD, **head}
    return {
        "type": f"mmdet.{type_ if type_ != 'Retina' else 'RetinaNet'}",
        "neck": fpn,
        "bbox_head": head,
        "train_cfg": train,
        "test_cfg": {},
    }


def segmentor(type_: str, **head: Any) -> dict[str, Any]:
    decode = {"type": f"mmseg.{type_}Head", "channels": 8, "num_classes": CLASSES, **head}
    return {"type": "mmseg.EncoderDecoder", "decode_head": decode, "test_cfg": {"mode": "whole"}}


def heads() -> dict[str, dict[str, Any]]:
    """Models without a backbone; "all", "last" and so on say which of its channels are meant."""
    return {
        "retinanet": one_stage("Retina", {"anchor_generator": BOXES},
                               {**ASSIGNED, "assigner": IOU}),
        "fcos": one_stage("FCOS", {**GN, "strides": STRIDES}, {}),
        "atss": one_stage("ATSS", {**GN, "anchor_generator": BOXES}, ASSIGNED),
        "gfl": one_stage("GFL", {**GN, **QUALITY, "anchor_generator": BOXES}, ASSIGNED),
        "yolof": {
            "type": "mmdet.YOLOF",
            "neck": {"type": "mmdet.DilatedEncoder", "in_channels": "last", "out_channels": 8,
                     "block_mid_channels": 8, "num_residual_blocks": 1, "block_dilations": [2]},
            "bbox_head": {
                "type": "mmdet.YOLOFHead", "num_classes": CLASSES, "in_channels": 8,
                "anchor_generator": {"type": "AnchorGenerator", "ratios": [1.0],
                                     "scales": [1, 2, 4], "strides": [32]},
                "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
                "loss_bbox": {"type": "GIoULoss"}, "reg_decoded_bbox": True,
            },
            "train_cfg": {"assigner": {"type": "UniformAssigner", "pos_ignore_thr": 0.15,
                                       "neg_ignore_thr": 0.7}, "allowed_border": -1,
                          "pos_weight": -1, "debug": False},
            "test_cfg": {},
        },
        "rpn": {
            "type": "mmdet.RPN",
            "neck": {"type": "mmdet.FPN", "num_outs": 5},
            "rpn_head": {"type": "mmdet.RPNHead", "in_channels": 8, "feat_channels": 8,
                         "anchor_generator": BOXES},
            "train_cfg": {"rpn": {**ASSIGNED, "assigner": IOU,
                                  "sampler": {"type": "RandomSampler", "num": 16,
                                              "pos_fraction": 0.5,
                                              "add_gt_as_proposals": False}}},
            "test_cfg": {"rpn": {}},
        },
        "pspnet": segmentor("PSP", in_channels="last", in_index=-1),
        "fcn": segmentor("FCN", in_channels="last", in_index=-1, num_convs=1),
        "fcn_first": segmentor("FCN", in_channels="first", in_index=0, num_convs=1),
        "deeplabv3plus": segmentor("DepthwiseSeparableASPP", in_channels="last", in_index=-1,
                                   dilations=(1, 2), c1_in_channels="first", c1_channels=4),
        "upernet": segmentor("UPer", in_channels="all", in_index="all"),
        "segformer": segmentor("Segformer", in_channels="all", in_index="all"),
        "semantic_fpn": {
            **segmentor("FPN", in_channels="neck", in_index="all", feature_strides="strides"),
            "neck": {"type": "mmseg.FPN", "num_outs": "all"},
        },
    }  # fmt: skip


def assemble(head: str, family: str) -> nn.Module:
    """A model with fitting channels, and with a pyramid where there is one scale only."""
    backbone = build(family)
    settings = heads()[head]
    necks = [settings.pop("neck", None)]
    channels, strides = list(backbone.out_channels), list(backbone.strides)
    is_detector = settings["type"].startswith("mmdet")
    if family in ISOTROPIC and (is_detector or family == "ConvMixer"):
        pyramid = {"type": "mmvitconv.IsotropicPyramid", "in_channels": 16}
        necks.insert(0, {**pyramid, "patch_size": strides[0]})
        strides = [4, 8, 16, 32]
    count = len(channels)
    values = {"first": channels[0], "last": channels[-1], "all": channels, "strides": strides,
              "neck": [8] * count}  # fmt: skip
    for part in (settings.get("decode_head"), *necks):
        for key, value in (part or {}).items():
            if isinstance(value, str) and value in values:
                indices = {"in_index": list(range(count)), "num_outs": count}
                part[key] = indices.get(key, values[value])
    if necks[-1] is not None and necks[-1]["type"].endswith("FPN"):
        necks[-1].update(in_channels=channels, out_channels=8)
    if settings.get("decode_head", {}).get("in_index") == -1:
        settings["decode_head"]["in_index"] = count - 1
    settings["backbone"] = {"type": f"mmvitconv.{family}", "arch": arch_of(family)}
    necks = [neck for neck in necks if neck is not None]
    if necks:
        settings["neck"] = necks if len(necks) > 1 else necks[0]
    with DefaultScope.overwrite_default_scope(settings["type"].partition(".")[0]):
        return MODELS.build(settings)


def sample(is_detector: bool) -> Any:
    """Two boxes, or a map of classes."""
    if is_detector:
        from mmdet.structures import DetDataSample

        boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 8.0, 60.0, 60.0]])
        found = DetDataSample()
        found.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    else:
        from mmseg.structures import SegDataSample

        labels = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE) // 7 % CLASSES
        found = SegDataSample(gt_sem_seg=PixelData(data=labels))
    shape = (SIDE, SIDE)
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
    found.set_metainfo({**sizes, "scale_factor": (1.0, 1.0)})
    return found


def two_steps(head: str, family: str, rank: int) -> list[str]:
    """Train two steps in two processes; gives the names of parameters without a gradient."""
    torch.manual_seed(rank)
    model = assemble(head, family).train()
    wrapped = DistributedDataParallel(model)
    is_detector = hasattr(model, "bbox_head") or hasattr(model, "rpn_head")
    missing = []
    for _ in range(2):
        model.zero_grad()
        samples = [sample(is_detector) for _ in range(2)]
        losses = wrapped(torch.randn(2, 3, SIDE, SIDE), samples, mode="loss")
        sum(x.mean() for key, value in losses.items() if "loss" in key
            for x in (value if isinstance(value, list) else [value])).backward()  # fmt: skip
        missing += [name for name, p in model.named_parameters() if p.grad is None]
    return missing


def sharded_gradients(family: str, rank: int) -> dict[str, float]:
    """FSDP2: how far gradients of a sharded model are from the means of the two processes'."""
    torch.manual_seed(0)
    model = build(family).double().eval()
    whole = copy.deepcopy(model)
    for stage in range(model.num_stages):
        for module in model.stage_modules(stage):
            for part in module if isinstance(module, nn.ModuleList) else [module]:
                fully_shard(part)
    fully_shard(model)
    torch.manual_seed(rank)
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    for one in (whole, model):
        one(x)[1].sin().sum().backward()
    found = {}
    sharded = dict(model.named_parameters())
    for name, parameter in whole.named_parameters():
        distributed.all_reduce(parameter.grad)
        gradient = sharded[name].grad.full_tensor()
        found[name] = (gradient - parameter.grad / 2).abs().max().item()
    return found


def work(rank: int) -> None:
    """What each of the two processes does."""
    join_ranks(rank)
    results: dict[Any, Any] = {}
    for family in FAMILIES:
        try:
            results["sharded", family] = sharded_gradients(family, rank)
        except Exception:
            results["sharded", family] = traceback.format_exc()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for family in FAMILIES:
            for head in heads():
                try:
                    results[family, head] = two_steps(head, family, rank)
                except Exception:
                    results[family, head] = traceback.format_exc()
    results["warnings"] = sorted({str(warning.message) for warning in caught})
    torch.save(results, f"rank{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Results of both processes."""
    files = run_ranks(Path(__file__), tmp_path_factory.mktemp("heads"))
    return [torch.load(file, weights_only=False) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("head", heads())
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_take_two_steps(ranks: list[dict], family: str, head: str) -> None:
    assert [results[family, head] for results in ranks] == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_shard_a_model(ranks: list[dict], family: str) -> None:
    """``fully_shard`` of FSDP2; only the second output is used."""
    for results in ranks:
        found = results["sharded", family]
        assert not isinstance(found, str), found
        assert max(found.values()) < 1e-9


@pytest.mark.slow
def test_two_processes_do_not_warn_of_strides(ranks: list[dict]) -> None:
    assert [text for results in ranks for text in results["warnings"] if "strides" in text] == []


if __name__ == "__main__":
    work(int(sys.argv[1]))
