"""What holds for the necks that make maps, whatever their arguments and maps: on random cases."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from numerics import assert_within, float32_limits
from torch import Tensor, nn

from mmvitconv.models import IsotropicPyramid, LightViTFPN


@dataclass(frozen=True)
class Case:
    """A neck's arguments, its maps and the outputs that it must give: channels and size of each."""

    options: dict
    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int, int], ...]
    batch: int
    channels_last: bool
    seed: int


sides = st.integers(1, 12)
common = {
    "batch": st.integers(1, 3),
    "channels_last": st.booleans(),
    "seed": st.integers(0, 99),
}


@st.composite
def pyramids(draw: st.DrawFn) -> Case:
    mode = draw(st.sampled_from(["taps", "last"]))
    patch_size = draw(st.integers(1, 40))
    indices = sorted(draw(st.sets(st.integers(0, 3), min_size=1)))
    options = {"patch_size": patch_size, "mode": mode, "out_indices": indices}
    # 'last' halves the channels with each enlargement: of 40 pixels three times, to stride 5.
    options["in_channels"] = channels = draw(st.integers(1, 4)) * (8 if mode == "last" else 1)
    if mode == "last":
        options["out_channels"] = draw(st.integers(1, 8))
    height, width = draw(sides), draw(sides)
    outputs = []
    for index in indices:
        options_of_one = {**options, "out_indices": [index]}
        (stride, *_) = IsotropicPyramid(**options_of_one).strides
        # The power of two that brings the stride nearest to 4, 8, 16 or 32.
        assert 2**-0.5 <= stride / (4, 8, 16, 32)[index] <= 2**0.5
        size = [-(-n * patch_size // stride) for n in (height, width)]
        outputs.append((options.get("out_channels", channels), *map(int, size)))
    if mode == "last":
        outputs.append((outputs[-1][0], *[-(-n // 2) for n in outputs[-1][1:]]))
    return Case(
        options,
        (channels,) * 4,
        ((height, width),) * 4,
        tuple(outputs),
        **{key: draw(value) for key, value in common.items()},
    )


@st.composite
def fpns(draw: st.DrawFn) -> Case:
    channels = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    sizes = tuple((draw(sides), draw(sides)) for _ in channels)
    extra, coarser = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    options = {
        "in_channels": draw(st.sampled_from([list, tuple]))(channels),
        "out_channels": draw(st.integers(1, 6)),
        "num_outs": len(channels) + extra + coarser,
        "num_extra_trans_convs": extra,
    }
    outputs = [*sizes]
    for _ in range(extra):
        outputs.insert(0, (2 * outputs[0][0], 2 * outputs[0][1]))
    for _ in range(coarser):
        outputs.append((-(-outputs[-1][0] // 2), -(-outputs[-1][1] // 2)))
    return Case(
        options,
        channels,
        sizes,
        tuple((options["out_channels"], *size) for size in outputs),
        **{key: draw(value) for key, value in common.items()},
    )


def maps(case: Case) -> list[Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return [
        torch.randn(case.batch, channels, *size, generator=generator).contiguous(
            memory_format=layout
        )
        for channels, size in zip(case.channels, case.sizes, strict=True)
    ]


@pytest.mark.parametrize(
    ("neck_type", "strategy"), [(IsotropicPyramid, pyramids()), (LightViTFPN, fpns())]
)
def test_neck(neck_type: type[nn.Module], strategy: st.SearchStrategy, search, count: Callable):
    def check(case: Case) -> None:
        count("shapes tried")
        count("property: necks")
        torch.manual_seed(case.seed)
        neck = neck_type(**case.options)
        inputs = maps(case)
        before = [x.clone() for x in inputs]

        # Training first, so that the running statistics are no longer those of an identity.
        outs = neck([x.clone().requires_grad_() for x in inputs])
        weights = [torch.linspace(-1, 1, o.numel()).cos().view(o.shape) for o in outs]
        sum((o * w).sum() for o, w in zip(outs, weights, strict=True)).backward()
        assert not [n for n, p in neck.named_parameters() if p.grad is None]
        assert all(p.grad.isfinite().all() for p in neck.parameters())

        neck.eval()
        with torch.no_grad():
            outs = neck(inputs)
            assert all(map(torch.equal, inputs, before)), "inputs were changed"
            assert [tuple(out.shape) for out in outs] == [(case.batch, *o) for o in case.outputs]
            assert all(out.isfinite().all() and out.dtype == torch.float32 for out in outs)
            copies = (
                copy.deepcopy(neck),
                pickle.loads(pickle.dumps(neck)),
                neck_type(**case.options),
            )
            copies[2].eval().load_state_dict(neck.state_dict())
            for other in (neck, *copies):
                assert all(map(torch.equal, other(inputs), outs)), "a copy gives other values"
            limits = float32_limits(neck, inputs)  # norms of a few nearly equal channels amplify
            plain = neck([x.contiguous() for x in inputs])
            assert_within(plain, outs, limits, "memory format")
            alone = [neck([x[i : i + 1] for x in inputs]) for i in range(case.batch)]
            together = [torch.cat(parts) for parts in zip(*alone, strict=True)]
            assert_within(together, outs, limits, "an image alone")

    search(check, strategy, 60)
