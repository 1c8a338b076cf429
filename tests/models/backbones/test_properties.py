"""What holds for every architecture, whatever its arguments and its input: on random cases.

Found by tests/families.py, so that a new family is covered without new code. tests/conftest.py says
how to try other cases, and more of them. A case that failed once belongs into KNOWN.
"""

import copy
import inspect
import io
import math
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from families import DISTINCT, FAMILIES, parameters, shallow
from hypothesis import strategies as st
from numerics import assert_within, float32_limits
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.models.base import Backbone

# The family's smallest architecture with few blocks, so that there is time for many cases.
SHALLOW = "shallow"
EACH = [*DISTINCT, *[(name, SHALLOW) for name in FAMILIES]]
RANDOM_INITIALISERS = [
    f"{name}_"
    for name in ("kaiming_normal", "kaiming_uniform", "normal", "trunc_normal", "uniform",
                 "xavier_normal", "xavier_uniform")
]  # fmt: skip
NOISE = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
LAYOUTS = ("contiguous", "channels_last", "strided", "expanded")


@dataclass(frozen=True)
class Case:
    """A backbone's arguments and its input.

    Attributes:
        out_indices: In any legal form.
        batch: Images B.
        size: Their height and width.
        layout: How they lie in memory, one of LAYOUTS.
        scale: Factor of the standard-normal values; 0 for constant images.
        weights: Seed of the weights, of the input and of what training draws.
    """

    in_channels: int = 3
    out_indices: Any = -1
    frozen_stages: int = -1
    norm_eval: bool = False
    drop_path_rate: float = 0.0
    with_cp: bool = False
    batch: int = 2
    size: tuple[int, int] = (32, 32)
    layout: str = "contiguous"
    scale: float = 1.0
    dtype: torch.dtype = torch.float32
    weights: int = 0


# Minimal cases that failed once: (family, case), tried with all its architectures.
KNOWN: list[tuple[str, Case]] = []


@lru_cache
def few_blocks(name: str) -> dict[str, Any]:
    sizes = shallow(name)
    return {**sizes, "depth": 3} if "depth" in sizes else sizes


def make(name: str, arch: str, **options: Any) -> Backbone:
    return FAMILIES[name](few_blocks(name) if arch == SHALLOW else arch, **options)


@lru_cache
def number_of_stages(name: str, arch: str) -> int:
    with torch.device("meta"):
        return make(name, arch, out_indices=-1).num_stages


@lru_cache
def rounds_up(name: str) -> bool:
    """Whether the family fills up rows and columns left over, or drops them."""
    with torch.device("meta"):
        model = make(name, SHALLOW, out_indices=-1).eval()
        out = model(torch.empty(1, 3, *(3 * model.strides[0] - 1,) * 2))
    return out[0].shape[2] == 3


@lru_cache
def cost(name: str, arch: str) -> float:
    """About how many seconds a case takes: to fill weights, and six images of 96 x 96."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = make(name, arch).eval()
        model(torch.empty(1, 3, 96, 96))
    return 1e-8 * parameters(model) + 6 * counter.get_total_flops() / 2e10


def examples(name: str, arch: str, most: int) -> int:
    """How many cases: ``most`` of a shallow model, fewer of others, at least 2."""
    if arch == SHALLOW:
        return most
    return min(max(round(most / 16 / cost(name, arch)), 2), most // 3)


@st.composite
def out_indices(draw: st.DrawFn, n: int) -> Any:
    """Some of n stages, in any legal form."""
    form = draw(st.sampled_from(["one", "range", "some", "all"]))
    if form == "one":
        kind = draw(st.sampled_from([int, np.int64, np.int32, lambda i: (i,), lambda i: [i]]))
        return kind(draw(st.integers(-n, n - 1)))
    first, step = draw(st.integers(0, n - 1)), draw(st.integers(1, 3))
    if form == "range":
        shift = draw(st.sampled_from([0, -n]))
        return range(first + shift, draw(st.integers(first + 1, n)) + shift, step)
    chosen = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n)))
    chosen = range(n) if form == "all" else chosen
    mixed = [index - n * draw(st.booleans()) for index in chosen]
    return draw(st.sampled_from([tuple, list, np.array, lambda i: tuple(map(np.int64, i))]))(mixed)


@st.composite
def cases(draw: st.DrawFn, name: str, arch: str, trains: bool = False) -> Case:
    n = number_of_stages(name, arch)
    batch = draw(st.integers(1, 3))
    # Borders and odd remainders are found in small images, and these take less time. Those of large
    # models have few pixels: a long image, or a single one.
    sides = st.integers(1, 40) | st.integers(1, 160)
    height, width = draw(sides), draw(sides)
    pixels = 3 * 160 * 160 if cost(name, arch) < 0.3 else 160 * 40
    width = min(width, max(pixels // (batch * height), 1))
    dtypes = [torch.float32] if trains else [torch.float32, torch.float32, torch.float64]
    return Case(
        in_channels=draw(st.integers(1, 5)),
        out_indices=draw(out_indices(n)),
        frozen_stages=draw(st.one_of(st.just(-1), st.integers(-1, n - 1))),
        norm_eval=draw(st.booleans()),
        drop_path_rate=draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.9])),
        with_cp=draw(st.booleans()),
        batch=batch,
        size=(width, height) if draw(st.booleans()) else (height, width),
        layout=draw(st.sampled_from(LAYOUTS)),
        scale=draw(st.sampled_from([1.0, 1.0, 1.0, 255.0, 0.0])),
        dtype=draw(st.sampled_from(dtypes)),
        weights=draw(st.integers(0, 99)),
    )


def build(name: str, arch: str, case: Case, **changes: Any) -> Backbone:
    """A backbone in which no branch hides behind a tiny scale and no norm is an identity."""
    options = {
        key: getattr(case, key)
        for key in ("in_channels", "out_indices", "frozen_stages", "norm_eval", "drop_path_rate",
                    "with_cp")
    }  # fmt: skip
    # Initialising a large model takes longer than running it.
    zeros = dict.fromkeys(RANDOM_INITIALISERS, lambda tensor, *_, **__: nn.init.zeros_(tensor))
    with mock.patch.multiple(nn.init, **zeros):
        model = make(name, arch, **{**options, **changes})
    fill(model, case.weights)
    return model.to(case.dtype)


@torch.no_grad()
def fill(model: nn.Module, start: int) -> None:
    """Weights that keep the size of what passes; scales, shifts and statistics of any value."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        first = (zlib.crc32(name.encode()) + 7919 * start) % (len(NOISE) // 2)
        noise, size = NOISE[first:], tensor.numel()
        noise = noise if size <= len(noise) else noise.repeat(-(-size // len(noise)))
        noise = noise[:size].view_as(tensor)
        if tensor.dim() < 2:
            tensor.add_(noise.abs(), alpha=0.2)
        else:
            tensor.copy_(noise).mul_(0.5 if len(tensor) == 1 else tensor[0].numel() ** -0.5)


def images(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(case.weights)
    height, width = case.size
    shape = (case.batch, case.in_channels, height, width)
    if case.layout == "strided":
        shape = (*shape[:2], width, 2 * height)
    x = case.scale * torch.randn(shape, generator=generator, dtype=case.dtype)
    if case.layout == "strided":
        return x[..., ::2].transpose(2, 3)
    if case.layout == "expanded":  # all images are the same one
        return x[:1].expand(shape)
    return x.contiguous(memory_format=torch.channels_last) if "last" in case.layout else x


def assert_same(values: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Equal to the last bit; None is only equal to None."""
    for a, b in zip(values, expected, strict=True):
        same = a is b if a is None or b is None else torch.equal(a, b)
        assert same, what


def limits(model: Backbone, x: Tensor) -> list[float]:
    """How far two results of this model may lie apart: its own sensitivity to rounding."""
    share = torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps
    return [share * limit for limit in float32_limits(model, x, draws=2)]


def check_outputs(outs: Sequence[Tensor], model: Backbone, case: Case, up: bool) -> None:
    """They are what the attributes say, finite and laid out like the images."""
    x = images(case)
    layout = torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        layout = torch.channels_last
    assert len(outs) == len(model.out_channels) == len(model.strides) == len(model.out_indices)
    for out, channels, stride in zip(outs, model.out_channels, model.strides, strict=True):
        sides = [-(-n // stride) if up else max(n // stride, 1) for n in case.size]
        assert out.shape == (case.batch, channels, *sides)
        assert out.dtype == case.dtype
        assert out.isfinite().all()
        assert out.is_contiguous(memory_format=layout)


def known(name: str) -> list[Case]:
    return [case for family, case in KNOWN if family == name]


@pytest.mark.parametrize(("name", "arch"), EACH)
def test_inference(name: str, arch: str, search, count):
    """Shapes, numbers, layouts, determinism, independence of images, copies."""

    @torch.no_grad()
    def check(case: Case) -> None:
        count("shapes tried")
        count("property: inference")
        model = build(name, arch, case).eval()
        x = images(case)
        before = x.clone()
        outs = model(x)
        assert torch.equal(x, before), "the input was changed"
        indices = np.atleast_1d(case.out_indices) % number_of_stages(name, arch)
        assert model.out_indices == tuple(indices)
        check_outputs(outs, model, case, rounds_up(name))
        close = partial(assert_within, outs, limits=limits(model, x))
        with torch.enable_grad():  # where the fast paths of inference are not taken
            close(model(x), what="with gradients")
        for again in (model(x), copy.deepcopy(model)(x), pickle.loads(pickle.dumps(model))(x)):
            assert_same(again, outs, "two calls, or a copy, give other values")
        plain = x.contiguous()
        close(model(plain), what=f"layout {case.layout}")
        if case.batch > 1:
            alone = [model(plain[i : i + 1]) for i in range(case.batch)]
            together = tuple(torch.cat(parts) for parts in zip(*alone, strict=True))
            close(together, what="an image alone")
        # Not to the last bit: torch takes other kernels for weights that need no gradient.
        usual = {"frozen_stages": -1, "norm_eval": False, "drop_path_rate": 0.0, "with_cp": False}
        close(build(name, arch, case, **usual).eval()(x), what="arguments for training")

    search(check, cases(name, arch), examples(name, arch, 12), known(name))


@pytest.mark.parametrize(("name", "arch"), EACH)
def test_training(name: str, arch: str, search, count):
    """Gradients reach what is not frozen, and only that; ``with_cp`` changes nothing at all."""

    def check(case: Case) -> None:
        count("shapes tried")
        count("property: training")
        results = []
        for with_cp in (False, True):
            model = build(name, arch, case, with_cp=with_cp).train()
            before = {key: value.clone() for key, value in model.state_dict().items()}
            x = images(case)
            x.requires_grad_(case.weights % 2 == 0)  # real images do not, heads' tests do
            torch.manual_seed(case.weights)
            if cannot_train(model, case):
                with pytest.raises(ValueError, match=r"more than 1 value per channel|batch_size"):
                    model(x)
                return
            outs = model(x)
            check_outputs(outs, model, case, rounds_up(name))
            frozen = frozen_parameters(model)
            for parameter in model.parameters():
                assert parameter.requires_grad is not any(parameter is p for p in frozen)
            live = [out for out in outs if out.requires_grad]
            if live:
                weights = [torch.linspace(-1, 1, o.numel()).cos().view(o.shape) for o in live]
                sum((o * w).sum() for o, w in zip(live, weights, strict=True)).backward()
            check_gradients(model, case)
            check_statistics(model, before)
            results.append([*outs, x.grad, *[p.grad for p in model.parameters()],
                            *model.buffers(), torch.rand(1)])  # fmt: skip
        assert_same(*results, "with_cp changes values")

    search(check, cases(name, arch, trains=True), examples(name, arch, 12), known(name))


def cannot_train(model: Backbone, case: Case) -> bool:
    """Whether a BatchNorm would take the statistics of one value."""
    if case.batch > 1:
        return False
    lone = []

    def look(norm: nn.Module, args: tuple[Tensor]) -> None:
        lone.append(norm.training and args[0].numel() == args[0].shape[1])

    with torch.random.fork_rng(), torch.no_grad():
        twin = copy.deepcopy(model).eval()
        for norm, original in zip(twin.modules(), model.modules(), strict=True):
            if isinstance(norm, _BatchNorm):
                norm.register_forward_pre_hook(
                    lambda _, args, original=original: look(original, args)
                )
        twin(images(case))
    return any(lone)


def frozen_parameters(model: Backbone) -> list[nn.Parameter]:
    """Parameters of the frozen stages, and those that belong to no stage, which are the stem's."""
    last = min(model.frozen_stages, model.num_stages - 1)
    if last < 0:
        return []
    live = [p for s in range(last + 1, model.num_stages) for m in model.stage_modules(s)
            for p in m.parameters()]  # fmt: skip
    ids = set(map(id, live))
    return [p for p in model.parameters() if id(p) not in ids]


def check_gradients(model: Backbone, case: Case) -> None:
    """Every parameter that is not frozen got one: DDP waits for them; and none is lost on the way.

    A gradient may be zero where a softmax or norm has one position only, where a branch is dropped
    and where the image is constant, so it is asked for elsewhere.
    """
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, grad in grads.items() if grad is None]
    assert all(grad.sum().isfinite() for grad in grads.values())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    if case.drop_path_rate == 0 and case.scale > 0 and min(case.size) >= 2 * max(model.strides):
        assert not [n for n, grad in grads.items() if not grad.any()], "zero gradients"


def check_statistics(model: Backbone, before: dict[str, Tensor]) -> None:
    """Running statistics move where a norm trains, and nowhere else."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    after = model.state_dict()
    for key, value in before.items():
        norm = norms.get(key.rpartition(".")[0])
        moves = norm is not None and norm.training and "num_batches" in key
        assert torch.equal(value, after[key]) is not moves or "running" in key, key
        if norm is not None and not norm.training:
            assert torch.equal(value, after[key]), key
    if model.norm_eval:
        assert not any(norm.training for norm in norms.values())


@pytest.mark.parametrize(("name", "arch"), EACH)
def test_state_dict(name: str, arch: str, search, count):
    """A state dict loads strictly; one of a model with all outputs fills one with fewer."""

    @torch.no_grad()
    def check(case: Case) -> None:
        count("shapes tried")
        count("property: state dict")
        full = build(name, arch, case, out_indices=range(number_of_stages(name, arch))).eval()
        few = build(name, arch, replace(case, weights=case.weights + 1)).eval()
        x = images(case)
        few(x)  # what is prepared for the weights must not outlive them
        buffer = io.BytesIO()
        torch.save(full.state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
        own = few.state_dict()
        assert all(few.is_optional_key(key) for key in state.keys() - own.keys())
        assert own.keys() <= state.keys()
        few.load_state_dict({key: state[key] for key in own}, strict=True)
        expected, outs = full(x), few(x)
        assert_same(outs, [expected[i] for i in few.out_indices], "fewer outputs, other values")
        missing, unexpected = full.load_state_dict(few.state_dict(), strict=False)
        assert not unexpected
        assert all(few.is_optional_key(key) for key in missing)
        for key, value in full.state_dict().items():
            assert torch.equal(value, state[key]), key

    search(check, cases(name, arch), examples(name, arch, 8), known(name))


def illegal_arguments(n: int, takes_none: bool) -> st.SearchStrategy[dict[str, Any]]:
    """One argument with a value that it must not have."""
    nothing = [] if takes_none else [None]
    no_number = st.one_of(st.sampled_from([None, True, False, "3", (), [3], {}]), st.text())
    no_integer = no_number | st.floats()
    no_index = no_integer | st.integers(n) | st.integers(max_value=-n - 1)
    disorder = st.lists(st.integers(0, n - 1), min_size=2).filter(
        lambda i: any(a >= b for a, b in pairwise(i))
    )
    values = {
        "in_channels": no_integer | st.integers(max_value=0),
        "frozen_stages": no_integer | st.integers(n) | st.integers(max_value=-2),
        "drop_path_rate": no_number.filter(lambda rate: rate is not False)
        | st.floats(1, exclude_min=False)
        | st.floats(max_value=0, exclude_max=True).filter(bool)
        | st.just(math.nan),
        "out_indices": st.sampled_from([(), [], "", range(0), True, False, 0.5, "0", {}, *nothing])
        | st.lists(no_index, min_size=1, max_size=3)
        | disorder
        | disorder.map(lambda i: tuple(j - n for j in i)),
    }
    return st.one_of(*[value.map(lambda v, key=key: {key: v}) for key, value in values.items()])


@pytest.mark.parametrize(("name", "arch"), EACH)
def test_illegal_arguments(name: str, arch: str, search, count):
    """Each gives one sentence that names the argument and says what is legal."""

    def check(options: dict[str, Any]) -> None:
        count("property: illegal arguments")
        message = f"{next(iter(options))}.*(give |must be .*, got)"
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            make(name, arch, **options)

    default = inspect.signature(FAMILIES[name]).parameters["out_indices"].default
    strategy = illegal_arguments(number_of_stages(name, arch), takes_none=default is None)
    # Accepted or answered by a TypeError once.
    wrong = {"out_indices": True, "in_channels": True, "frozen_stages": None, "drop_path_rate": ""}
    search(check, strategy, 40 if arch == SHALLOW else 8, [{k: v} for k, v in wrong.items()])


@pytest.mark.parametrize(("name", "arch"), EACH)
def test_illegal_inputs(name: str, arch: str, search, count):
    """No other rank, no other number of channels, nothing empty, no integers."""
    with torch.device("meta"):
        model = make(name, arch, out_indices=0).eval()

    def check(case: tuple[list[int], torch.dtype]) -> None:
        count("property: illegal inputs")
        with pytest.raises(ValueError, match=r"takes .* of shape \(B, 3, H, W\).*, but got"):
            model(torch.zeros(case[0], dtype=case[1], device="meta"))

    legal = st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 99), st.integers(1, 99))
    no_shape = st.lists(st.integers(0, 9), max_size=6).filter(
        lambda shape: len(shape) != 4 or shape[1] != 3 or 0 in shape
    )
    no_float = st.sampled_from([torch.uint8, torch.int64, torch.bool, torch.complex64])
    strategy = st.tuples(no_shape, st.just(torch.float32)) | st.tuples(legal, no_float)
    # Pixels as they come from a file, which no convolution takes.
    search(check, strategy, 20 if arch == SHALLOW else 5, [([1, 3, 8, 8], torch.uint8)])
