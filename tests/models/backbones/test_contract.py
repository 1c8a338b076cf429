"""The backbone contract of every registered architecture. A new family is covered without new code.

A family's module offers ``ARCHS``, a table of its architectures; behaviour is tested on the
smallest of each family, counts and shapes on all of them (on the meta device).
"""

import copy
import io

import numpy as np
import pytest
import torch
from families import ALIASES, DISTINCT, FAMILIES, smallest
from mmengine.model import BaseModule
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.models.base import Backbone


@pytest.fixture(scope="module", params=FAMILIES)
def build(request):
    """A function that builds the family's smallest architecture, always with the same weights."""
    cls, arch = FAMILIES[request.param], smallest(request.param)

    def make(**kwargs) -> Backbone:
        torch.manual_seed(0)
        model = cls(arch, **kwargs)
        for parameter in model.parameters():  # no branch hides behind a tiny layer scale
            if parameter.dim() == 1:
                parameter.data.add_(0.1)
        return model

    return make


def sizes_of(length: int, stride: int) -> set[int]:
    """What a side may become: convolutions with padding round up, patches without it down."""
    return {-(-length // stride), max(length // stride, 1)}


@pytest.mark.parametrize(("name", "arch"), DISTINCT)
def test_outputs_are_what_the_attributes_say(name: str, arch: str):
    with torch.device("meta"):
        model = FAMILIES[name](arch).eval()
        outs = model(torch.empty(1, 3, 224, 320))
    assert isinstance(model, BaseModule)
    assert len(outs) == len(model.out_channels) == len(model.strides) == len(model.out_indices)
    for out, channels, stride in zip(outs, model.out_channels, model.strides, strict=True):
        assert out.shape == (1, channels, -(-224 // stride), -(-320 // stride))


@pytest.mark.parametrize("alias", ALIASES, ids=str)
def test_an_alias_is_the_same_architecture(alias: tuple[str, str]):
    with torch.device("meta"):
        states = [FAMILIES[name](arch).state_dict() for name, arch in (alias, ALIASES[alias])]
    assert len({str([(key, value.shape) for key, value in s.items()]) for s in states}) == 1


@pytest.mark.parametrize(
    ("size", "batch"),
    [((1, 1), 2), ((2, 7), 1), ((31, 33), 2), ((97, 65), 1), ((64, 96), 3)],
)
def test_any_size(build, size, batch):
    model = build().eval()
    with torch.no_grad():
        outs = model(torch.randn(batch, 3, *size))
    for out, channels, stride in zip(outs, model.out_channels, model.strides, strict=True):
        assert out.shape[:2] == (batch, channels)
        assert out.shape[2] in sizes_of(size[0], stride)
        assert out.shape[3] in sizes_of(size[1], stride)
        assert out.isfinite().all()
        assert out.is_contiguous()


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal but for the rounding of float64, which any mistake exceeds by far."""
    assert b.dtype == torch.float64
    assert (a - b).abs().max() <= 1e-9 * b.std().clamp(min=1)


def out_indices_of(build, choice):
    """A choice of stages, for any number n of them."""
    n = build(out_indices=-1).num_stages
    named = {"negative": range(-n, 0), "all": range(n), "all but first": range(1, n)}
    named |= {"last but one": [n - 2], "too large": [n], "too small": [-n - 1]}
    return tuple(named[choice]) if isinstance(choice, str) else choice


@pytest.mark.parametrize("choice", [(0,), (1, -1), -1, [0, -1], "negative"])
def test_out_indices(build, choice):
    full = build(out_indices=out_indices_of(build, "all")).eval()
    model = build(out_indices=out_indices_of(build, choice)).eval()
    state = {k: v for k, v in full.state_dict().items() if k in model.state_dict()}
    model.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, outs = full(x), model(x)
    assert len(outs) == len(model.out_indices)
    for i, out in zip(model.out_indices, outs, strict=True):
        torch.testing.assert_close(out, expected[i])
    left_out = set(full.state_dict()) - set(model.state_dict())
    assert all(model.is_optional_key(key) for key in left_out)


@pytest.mark.parametrize("choice", ["all", "all but first", "last but one"])
def test_every_parameter_reaches_an_output(build, choice):
    model = build(out_indices=out_indices_of(build, choice)).train()
    outs = model(torch.randn(2, 3, 64, 64))
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("choice", [(), "too large", "too small", (1, 0), (0, 0), (0.5,)])
def test_illegal_out_indices(build, choice):
    model = build(out_indices=-1)
    last = model.num_stages - 1
    with pytest.raises(
        ValueError, match=rf"must be .*({model.unit} 0 to {last}|increasing).*, got"
    ):
        build(out_indices=out_indices_of(build, choice))


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (3, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32)])
def test_illegal_inputs(build, shape):
    with pytest.raises(ValueError, match=r"takes a tensor of shape \(B, 3, H, W\)"):
        build()(torch.randn(shape))


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (np.zeros((1, 3, 32, 32), np.float32), "ndarray"),
        ([torch.rand(3, 32, 32)], "list"),
        (None, "NoneType"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "torch.uint8"),
        (torch.rand(1, 3, 32, 32).to_sparse(), "a tensor of layout torch.sparse_coo"),
        (torch.nested.nested_tensor([torch.rand(3, 32, 32)]), "a nested tensor"),
    ],
)
def test_no_images(build, image, given):
    with pytest.raises(ValueError, match=rf"takes a tensor of shape .*, but got .*{given}"):
        build()(image)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"in_channels": 0},
        {"frozen_stages": 99},
        {"frozen_stages": -2},
        {"drop_path_rate": 1.0},
        {"drop_path_rate": -0.1},
        {"out_indices": np.array(0)},
        {"init_cfg": 5},
        {"init_cfg": ("file.pth",)},
    ],
)
def test_illegal_arguments(build, kwargs):
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))} must be .*, got"):
        build(**kwargs)


@pytest.mark.parametrize("in_channels", [1, 5])
def test_in_channels(build, in_channels):
    outs = build(in_channels=in_channels).eval()(torch.randn(1, in_channels, 32, 32))
    assert all(out.isfinite().all() for out in outs)


def test_channels_last_in_channels_last_out(build):
    model = build().double().eval()
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        plain = model(x)
        outs = model(x.contiguous(memory_format=torch.channels_last))
    for a, b in zip(plain, outs, strict=True):
        assert b.is_contiguous(memory_format=torch.channels_last)
        assert_close(a, b)


def test_with_cp_changes_no_value(build):
    grads = []
    for with_cp in (False, True):
        model = build(with_cp=with_cp, drop_path_rate=0.3).train()
        torch.manual_seed(1)
        x = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64).sin().requires_grad_()
        outs = model(x)
        sum(out.cos().sum() for out in outs).backward()
        grads.append([*outs, x.grad, *[p.grad for p in model.parameters()], *model.buffers()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("unfrozen", [-1, 0, 1, 2])
def test_frozen_stages(build, unfrozen):
    last = build().num_stages - 1
    frozen_stages = -1 if unfrozen < 0 else last - unfrozen
    model = build(frozen_stages=frozen_stages)
    for _ in range(2):
        model.train()
        for stage in range(model.num_stages):
            for module in model.stage_modules(stage):
                frozen = stage <= frozen_stages
                assert all(p.requires_grad is not frozen for p in module.parameters())
                assert all(m.training is not frozen for m in module.modules())
        model.eval()
    x = torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(model.state_dict())
    outs = model.train()(x)
    if frozen_stages < last:
        sum(out.sum() for out in outs if out.requires_grad).backward()
    buffers = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen_names = [
        n for n, m in model.named_modules()
        for s in range(frozen_stages + 1) if any(m is f for f in model.stage_modules(s))
    ]  # fmt: skip
    assert not [k for k in buffers if any(k.startswith(f"{n}.") for n in frozen_names)]


def test_norm_eval_keeps_running_statistics(build):
    model = build(norm_eval=True).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    model = build().train()
    model(torch.randn(2, 3, 64, 64))
    assert not any(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_layer_depth(build):
    model = build()
    depths = {
        n: model.get_layer_depth(f"backbone.{n}", "backbone.") for n, _ in model.named_parameters()
    }
    ids = [layer for layer, _ in depths.values()]
    (num_layers,) = {num for _, num in depths.values()}
    assert min(ids) == 0
    # the last one is for output norms, which not every family has, and heads
    assert set(ids) | {num_layers - 1} == set(range(num_layers))
    assert model.get_layer_depth("head.fc.weight", "backbone.") == (num_layers - 1, num_layers)
    assert ids != [0] * len(ids)
    for stage in range(model.num_stages - 1):  # deeper stages have larger ids
        own, deeper = (
            [model.get_layer_depth(n)[0] for n, p in model.named_parameters()
             if not n.startswith("norm") and any(p is q for m in model.stage_modules(s) for q in
             m.parameters())]
            for s in (stage, stage + 1)
        )  # fmt: skip
        assert max(own) < min(deeper)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite_and_close(build, dtype):
    model = build().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        outs = model(x)
    with torch.no_grad():
        expected = model(x)
    for a, b in zip(outs, expected, strict=True):
        assert a.isfinite().all()
        assert (a.float() - b).abs().max() < 0.1 * b.abs().max()


def test_autocast_trains(build):
    model = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        outs = model(torch.randn(2, 3, 64, 64))
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_torch_counts_flops_without_gradients(build, mode):
    with mode(), FlopCounterMode(display=False) as counter:
        build().eval()(torch.randn(1, 3, 64, 64))
    assert counter.get_total_flops() > 0


@pytest.mark.graph
def test_compiles_without_graph_break(build):
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    model = build().double().eval()
    with torch.no_grad():
        expected = model(x)
        torch._dynamo.reset()
        outs = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    for a, b in zip(outs, expected, strict=True):
        assert_close(a, b)
    model.train()
    torch._dynamo.reset()
    outs = torch.compile(model, backend="aot_eager", fullgraph=True)(x.expand(2, -1, -1, -1))
    sum(out.sum() for out in outs).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.graph
def test_exports_with_dynamic_batch(build):
    model = build().double().eval()
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=16)
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})
        x = torch.randn(5, 3, 64, 64, dtype=torch.float64)
        for a, b in zip(program.module()(x), model(x), strict=True):
            assert_close(a, b)


def test_state_dict_deepcopy_and_pickle(build):
    model = build().eval()
    x = torch.randn(1, 3, 40, 40)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    pickled = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        for other in (copy.deepcopy(model), pickled):
            for a, b in zip(model(x), other(x), strict=True):
                assert torch.equal(a, b)
    assert set(build().state_dict()) == set(model.state_dict())


class Wrapped(torch.nn.Module):
    """A layer inside another, as libraries for LoRA have it: only ``forward`` is the same."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_linear_layers_may_be_wrapped(build):
    model = build().eval()
    images = torch.rand(1, 3, 50, 64)  # windows have padding
    with torch.no_grad():
        expected = model(images)
        for module in list(model.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(module, name, Wrapped(layer))
        for out, wanted in zip(model(images), expected, strict=True):
            assert torch.equal(out, wanted)
