"""ParC-Net's SSDLite detector against a literal oracle with the original's keys and layout."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from math import sqrt
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, TASK_UTILS, DefaultScope
from mmengine.structures import InstanceData
from oracles.parc import fill_like, parc_net
from recipes import check_cosine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.engine.configuration import load_config
from mmvitconv.models.backbones.parc_net import ParCNet
from mmvitconv.models.heads.ssdlite import SSDLiteAnchorGenerator, SSDLiteHead, SSDLiteNeck
from mmvitconv.weights import convert_state_dict

CONFIG = Path(__file__).resolve().parents[3] / "configs/parc/ssdlite_parcnet_s_coco.py"
STRIDES = (16, 32, 64, 128, 256, 256)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture(scope="module")
def cfg() -> Config:
    cfg = load_config(str(CONFIG))
    cfg.model.backbone.init_cfg = None  # no network here
    return cfg


def build(cfg: Config) -> nn.Module:
    return MODELS.build(Config(cfg.model.to_dict())._cfg_dict)


class Layer(nn.Module):
    """Convolution below ``block.conv``, its norm below ``block.norm``."""

    def __init__(self, c_in: int, c_out: int, kernel: int, norm=True, act=True, bias=False, **conv):
        super().__init__()
        layers = OrderedDict(
            conv=nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias, **conv)
        )
        if norm:
            layers["norm"] = nn.BatchNorm2d(c_out)
        if act:
            layers["act"] = nn.ReLU()
        self.block = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def separable(c_in: int, c_out: int, stride: int = 1, last: bool = False) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            dw_conv=Layer(c_in, c_in, 3, act=False, stride=stride, groups=c_in),
            pw_conv=Layer(c_in, c_out, 1, norm=not last, act=not last, bias=last),
        )
    )


class Original(nn.Module):
    """docs/specs/parc.md#23-network, #5-state-dict, #10-details; gives (B, anchors, 4) and (B,
    anchors, 81), background first."""

    def __init__(self):
        super().__init__()
        self.encoder = parc_net("s")
        del self.encoder.conv_1x1_exp, self.encoder.classifier
        self.extra_layers = nn.ModuleDict(
            {
                "os_64": separable(160, 256, 2),
                "os_128": separable(256, 128, 2),
                "os_256": separable(128, 128, 2),
                "os_-1": nn.Sequential(nn.AdaptiveAvgPool2d(1), Layer(128, 64, 1, norm=False)),
            }
        )
        self.ssd_heads = nn.ModuleList()
        for channels, projected in ((128, 512), (160, 256), (256, 0), (128, 0), (128, 0)):
            layers = {"proj_layer": Layer(channels, projected, 1)} if projected else {}
            layers["loc_cls_layer"] = separable(projected or channels, 6 * 85, last=True)
            self.ssd_heads.append(nn.Sequential(OrderedDict(layers)))
        last = Layer(64, 4 * 85, 1, norm=False, act=False, bias=True)
        self.ssd_heads.append(nn.Sequential(OrderedDict(loc_cls_layer=last)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder.conv_1(x)
        levels = []
        for i in range(1, 6):
            x = getattr(self.encoder, f"layer_{i}")(x)
            levels.append(x)
        levels = levels[-2:]
        for layer in self.extra_layers.values():
            levels.append(layer(levels[-1]))
        outs = [
            head(level).permute(0, 2, 3, 1).reshape(len(x), -1, 85)
            for head, level in zip(self.ssd_heads, levels, strict=True)
        ]
        return torch.cat(outs, dim=1).split((4, 81), dim=2)


@pytest.fixture(scope="module")
def pair(cfg: Config) -> tuple[nn.Module, nn.Module]:
    """The oracle and our model with its weights."""
    original = Original()
    original.load_state_dict(fill_like(original.state_dict(), gain=1.3))
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = build(cfg)
    model.load_state_dict(convert_state_dict(original.state_dict(), "parc_net"))
    return original.eval(), model.eval()


@pytest.mark.parametrize("size", [(320, 320), (224, 224), (96, 160)])
def test_equals_the_original(pair, size: tuple[int, int]):
    original, model = pair
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        locations, classes = original(x)
        ours = model(x)
    scores, boxes = (
        torch.cat([out.permute(0, 2, 3, 1).reshape(2, -1, n) for out in outs], dim=1)
        for outs, n in zip(ours, (81, 4), strict=True)
    )
    classes = torch.cat([classes[..., 1:], classes[..., :1]], dim=-1)
    for a, b in ((boxes, locations), (scores, classes)):
        assert b[0].sub(b[1]).std() > 0.01 * b.std(), "the outputs depend on the image"
        torch.testing.assert_close(a, b, rtol=0, atol=3e-4 * b.std().item())


def test_parameters_and_multiply_adds(cfg):
    """docs/specs/parc.md#4-variants; without folded embeddings, which exist only where no gradient
    is asked for."""
    model = build(cfg).eval()
    assert sum(p.numel() for p in model.parameters()) == 5_197_282
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.empty(1, 3, 320, 320, device="meta"))
    assert round(counter.get_total_flops() / 2 / 1e6) == 2747


def original_anchors(grids: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """docs/specs/parc.md#10-details, one box after the other; corners in pixels."""
    scales = [0.1 + (1.05 - 0.1) * i / 6 for i in range(7)]
    anchors = []
    for level, (rows, columns) in enumerate(grids):
        s, mean = scales[level], sqrt(scales[level] * scales[level + 1])
        boxes = [(s, s), (mean, mean)]
        for r in (2, 3) if level < 5 else (2,):
            boxes += [(s * sqrt(r), s / sqrt(r)), (s / sqrt(r), s * sqrt(r))]
        for y in range(rows):
            for x in range(columns):
                for w, h in boxes:
                    numbers = ((x + 0.5) / columns, (y + 0.5) / rows, w, h)
                    cx, cy, w, h = (min(max(number, 0), 1) for number in numbers)
                    corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                    anchors.append(corners)
    return torch.tensor(anchors, dtype=torch.float64) * torch.tensor([width, height] * 2)


@pytest.mark.parametrize(
    ("size", "grids", "count"),
    [
        ((320, 320), [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)], 3232),
        ((256, 416), [(16, 26), (8, 13), (4, 7), (2, 4), (1, 2), (1, 1)], 3352),
        ((32, 96), [(2, 6), (1, 3), (1, 2), (1, 1), (1, 1), (1, 1)], 118),
    ],
)
def test_anchors(cfg, size: tuple[int, int], grids: list[tuple[int, int]], count: int):
    generator = TASK_UTILS.build(cfg.model.bbox_head.anchor_generator)
    with torch.no_grad():
        maps = build(cfg).eval().extract_feat(torch.rand(1, 3, *size))
    assert [tuple(level.shape[-2:]) for level in maps] == grids
    priors = generator.grid_priors(grids, dtype=torch.float64, device="cpu")
    assert [len(level) for level in priors] == [
        rows * columns * boxes
        for (rows, columns), boxes in zip(grids, generator.num_base_priors, strict=True)
    ]
    assert sum(map(len, priors)) == count
    torch.testing.assert_close(torch.cat(priors), original_anchors(grids, *size))
    flags = generator.valid_flags(grids, (*size, 3), device="cpu")
    assert [len(level) for level in flags] == [len(level) for level in priors]
    assert all(level.all() for level in flags)


def test_anchors_are_single_precision_by_default():
    priors = SSDLiteAnchorGenerator().grid_priors([(1, 1)] * 6, device="cpu")
    assert {level.dtype for level in priors} == {torch.float32}


def test_anchors_of_another_layout():
    generator = SSDLiteAnchorGenerator((8, 16), ((2,), (4,)), (0.25, 0.75))
    (first, second) = generator.grid_priors([(1, 2), (1, 1)], device="cpu")
    torch.testing.assert_close(first[4], torch.tensor([10.0, 3.0, 14.0, 5.0]))  # second cell
    torch.testing.assert_close(second[2], torch.tensor([0.0, 3.0, 16.0, 5.0]))  # 16 wide
    assert "strides=[(8, 8), (16, 16)]" in repr(generator)


def batch(size: int) -> dict:
    """Two images with two boxes each, as a data loader gives them."""
    from mmdet.structures import DetDataSample

    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo={"img_shape": (size, size), "ori_shape": (size, size),
                                         "scale_factor": (1.0, 1.0), "img_id": 0})  # fmt: skip
        corner = size * (0.1 + 0.3 * torch.rand(2, 2))
        boxes = torch.cat([corner, corner + size * (0.2 + 0.3 * torch.rand(2, 2))], dim=1)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(80, (2,)))
        sample.ignored_instances = InstanceData(bboxes=torch.empty(0, 4))
        samples.append(sample)
    images = list(torch.randint(256, (2, 3, size, size), dtype=torch.uint8))
    return {"inputs": images, "data_samples": samples}


@pytest.mark.parametrize("size", [160, 192])
def test_trains_a_step_and_predicts(cfg, size: int):
    model = build(cfg)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=9e-4)
    data = batch(size)
    values = []
    for _ in range(2):
        losses = model.train()(**model.data_preprocessor(data, True), mode="loss")
        assert set(losses) == {"loss_cls", "loss_bbox"}
        loss = sum(chain.from_iterable(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        values.append(loss.item())
    assert 0 < values[1] < values[0] < 1000
    model.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor(data, False), mode="predict")
    for sample in found:
        boxes = sample.pred_instances.bboxes
        assert 0 < len(boxes) <= 1000
        assert boxes.min() >= 0
        assert boxes.max() <= size
        assert sample.pred_instances.labels.max() < 80


def test_a_location_of_zero_is_the_anchor_and_the_last_class_is_the_background(cfg):
    """Post-processing with hand-made predictions, in a rectangle."""
    grids = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1), (1, 1)]
    head = build(cfg).bbox_head
    boxes = head.num_base_priors
    scores = [torch.zeros(1, n, 81, *grid) for n, grid in zip(boxes, grids, strict=True)]
    for level in scores:
        level[:, :, 80] = 50  # background everywhere
    scores[0][0, 3, 80, 2, 5], scores[0][0, 3, 17, 2, 5] = 0, 50  # but for one box
    locations = [torch.zeros(1, 4 * n, *grid) for n, grid in zip(boxes, grids, strict=True)]
    locations[0].view(1, 6, 4, 4, 6)[0, 3, 0, 2, 5] = -1  # 0.1 of its width to the left
    meta = {"img_shape": (64, 96), "scale_factor": (1.0, 1.0)}
    (found,) = head.predict_by_feat(
        [level.flatten(1, 2) for level in scores], locations, batch_img_metas=[meta]
    )
    assert found.labels.tolist() == [17]
    width, height = 0.1 / sqrt(2) * 96, 0.1 * sqrt(2) * 64
    x, y = 5.5 / 6 * 96 - 0.1 * width, 2.5 / 4 * 64
    expected = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
    torch.testing.assert_close(found.bboxes, expected)


def test_takes_bgr_over_255(cfg):
    images = batch(160)
    given = torch.stack(images["inputs"]).float()
    torch.testing.assert_close(build(cfg).data_preprocessor(images, False)["inputs"] * 255, given)


def test_recipe(cfg):
    """docs/specs/parc.md#6-published-recipes."""
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (200, 32)
    assert cfg.auto_scale_lr.base_batch_size == 128
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 9e-4, 0.02)
    assert "paramwise_cfg" not in cfg.optim_wrapper
    check_cosine(cfg, 200)
    assert [hook.type for hook in cfg.custom_hooks] == ["EMAHook"]
    assert cfg.sync_bn == "torch"
    assert cfg.model.train_cfg.neg_pos_ratio == 3
    assert cfg.model.test_cfg.nms.iou_threshold == 0.5
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        (resize,) = (step for step in pipeline if step.type == "Resize")
        assert (resize.scale, resize.keep_ratio) == ((320, 320), False)


def test_norms_and_activations_can_be_chosen():
    neck = SSDLiteNeck(norm_cfg={"type": "SyncBN"}, act_cfg={"type": "SiLU"})
    assert any(isinstance(module, nn.SyncBatchNorm) for module in neck.modules())
    assert not any(isinstance(module, nn.ReLU) for module in neck.modules())
    assert neck.out_channels == (128, 160, 256, 128, 128, 64)


def test_initialisation(cfg):
    model = build(cfg)
    model.init_weights()
    for module in chain(model.neck.modules(), model.bbox_head.modules()):
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            bound = sqrt(6 / (module.in_channels + module.out_channels))
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or not module.bias.any()


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"got 1 maps, but in_channels=\(128, 160\)"):
        SSDLiteNeck()([torch.rand(2, 128, 4, 4)])
    with pytest.raises(ValueError, match="there are 2 strides and 1 sequences of ratios"):
        SSDLiteAnchorGenerator((16, 32), ((2,),))
    with pytest.raises(ValueError, match="got 1 maps for anchors of 6 levels"):
        SSDLiteAnchorGenerator().grid_priors([(4, 4)], device="cpu")
    anchors = {"type": "mmvitconv.SSDLiteAnchorGenerator"}
    for wrong in ({"in_channels": (128, 160)}, {"projected_channels": (8,) * 6}):
        with pytest.raises(ValueError, match="does not fit anchors of 6 levels; give 6 channels"):
            SSDLiteHead(anchor_generator=anchors, **wrong)


def test_the_config_names_what_is_registered(cfg):
    assert MODELS.get(cfg.model.neck.type) is SSDLiteNeck
    assert MODELS.get(cfg.model.bbox_head.type) is SSDLiteHead
    assert MODELS.get(cfg.model.backbone.type) is ParCNet
    assert tuple(cfg.model.bbox_head.anchor_generator.strides) == STRIDES
