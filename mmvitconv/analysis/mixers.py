"""The token mixers of all families side by side: what they are, as data, and what they cost.

Every mixer is read as a convolution whose kernel is stored or made from the input, which follows
the abstract of arXiv:2309.10713; the columns and the rows are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmvitconv.analysis.timing import measure, peak_memory
from mmvitconv.models.backbones.convmixer import Block as ConvMixerBlock
from mmvitconv.models.backbones.convmixer import ConvMixerArch
from mmvitconv.models.backbones.fcvit import FCViTArch, GlobalContext, Mix
from mmvitconv.models.backbones.lightvit import Attention, Tokens, WindowGrid
from mmvitconv.models.layers import MIXERS, OversizeConv, ParCPair, make_mixer
from mmvitconv.models.layers.mixers import GlobalMixer
from mmvitconv.models.layers.window import relative_position_index
from mmvitconv.ops import cpu_memory_format

__all__ = [
    "COLUMNS",
    "KNOWN_ELSEWHERE",
    "ROWS",
    "Cost",
    "MemoryCheck",
    "Row",
    "attention_memory",
    "describe",
    "measure_costs",
    "plot",
    "window_ratios",
]

# Keys of a description and how tables call them.
COLUMNS: Mapping[str, str] = {
    "kernel": "kernel made from",
    "reach": "reach",
    "per_position": "differs by position",
    "groups": "shared by channels",
    "activation": "activation, norm",
    "static_term": "static term",
    "layers": "1x1 layers inside",
}

# As released: kernels of ConvMixer and FCViT, windows and global tokens of LightViT.
_CONVMIXER_SIZE, _FCVIT_SIZE, _FCVIT_REDUCTION = 9, 11, 8
_WINDOW, _GLOBAL_TOKENS = 7, 8


class GlobalTokenAttention(nn.Module):
    """LightViT's attention for a map, with global tokens of its own.

    Args:
        channels: Channels.
        heads: Heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads, _WINDOW)
        self.global_token = nn.Parameter(0.02 * torch.randn(1, _GLOBAL_TOKENS, channels))
        self.register_buffer("index", relative_position_index(_WINDOW), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map of shape (B, C, H, W)."""
        batch, _, height, width = x.shape
        grid = WindowGrid(height, width, _WINDOW, self.index)
        tokens = Tokens(batch, height * width, _GLOBAL_TOKENS)
        x = grid.to_windows(x.permute(0, 2, 3, 1))
        rows = torch.cat([x.flatten(0, 1), self.global_token.expand(batch, -1, -1).flatten(0, 1)])
        x, _ = tokens.split(self.attention(rows, tokens, grid))
        return grid.to_map(x).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Row:
    """A mixer of the table.

    Args:
        name: What the table calls it.
        family: Where it comes from; panels of the plot.
        build: Makes it for a number of channels, heads and the side of a map; it takes and gives
            maps (B, C, H, W).
        columns: Its description; None if ``describe()`` of the mixer gives it.
        macs: Multiply-adds for channels, heads, height and width; None if ``macs()`` of the mixer
            gives them.
        layout: The layout its backbone works in, which may depend on the gradient mode.
    """

    name: str
    family: str
    build: Callable[[int, int, int], nn.Module]
    columns: Mapping[str, str] | None = None
    macs: Callable[[int, int, int, int], int] | None = None
    layout: Callable[[], torch.memory_format] = lambda: torch.channels_last


def _default_layout() -> torch.memory_format:
    return torch.contiguous_format


def _row(*values: str) -> dict[str, str]:
    return dict(zip(COLUMNS, values, strict=True))


def _preset(name: str) -> Row:
    is_global = issubclass(MIXERS[name].kind, GlobalMixer)
    family = "global attention" if is_global else "windows, neighbourhoods, depth-wise kernels"
    return Row(name, family, lambda channels, heads, side: make_mixer(name, channels, heads))


def _context_macs(channels: int, heads: int, height: int, width: int) -> int:
    hidden = channels // _FCVIT_REDUCTION
    return 3 * channels * hidden + height * width * channels


def _mix_macs(channels: int, heads: int, height: int, width: int) -> int:
    hidden = max(channels // 8, 16)
    per_position = channels * _FCVIT_SIZE**2 + 2 * channels * hidden
    return _context_macs(channels, heads, height, width) + height * width * per_position


def _global_token_macs(channels: int, heads: int, height: int, width: int) -> int:
    n, t, c = height * width, _GLOBAL_TOKENS, channels
    layers = (n + t) * c * c + 2 * n * c * c + 2 * t * c * c + (n + t) * c * c  # q, kv, kv, proj
    products = 2 * n * _WINDOW**2 * c + 2 * 2 * n * t * c  # windows, gather and read back
    return layers + products


def _mix(channels: int, heads: int, side: int) -> nn.Module:
    arch = FCViTArch(depths=(1,), embed_dims=(channels,), mlp_ratios=(4,), num_heads=heads)
    return Mix(channels, _FCVIT_SIZE, arch)


def _convmixer(channels: int, heads: int, side: int) -> nn.Module:
    arch = ConvMixerArch(channels, 1, _CONVMIXER_SIZE, 1)
    return ConvMixerBlock(arch, {"type": "GELU"}, {"type": "BN"}, 0.0, None)[0]


ROWS: tuple[Row, ...] = (
    *[_preset(name) for name in MIXERS],
    Row(
        "ln_relu, windows",
        "windows, neighbourhoods, depth-wise kernels",
        lambda channels, heads, side: make_mixer(
            {"preset": "ln_relu", "reach": "window", "bias": "rel_table"}, channels, heads
        ),
    ),
    Row(
        "FCViT global context",
        "other families",
        lambda channels, heads, side: GlobalContext(
            channels, heads, _FCVIT_REDUCTION, compete=True, weighted=True
        ),
        _row(
            "similarity of position and mean, times a vector made from the mean",
            "1, and the mean",
            "yes, by one weight for each head",
            "weight: heads; vector: C",
            "standardised over heads and tokens; maxout",
            "identity",
            "bottleneck on the mean",
        ),
        _context_macs,
    ),
    Row(
        "FCViT mix",
        "other families",
        _mix,
        _row(
            f"as above, then static {_FCVIT_SIZE} x {_FCVIT_SIZE}",
            f"{_FCVIT_SIZE} x {_FCVIT_SIZE}, and the mean",
            "context only",
            "context: heads; convolution: C",
            "GELU after each layer of the bottleneck",
            "all but the context",
            "bottleneck to C / 8",
        ),
        _mix_macs,
    ),
    Row(
        "LightViT attention",
        "other families",
        lambda channels, heads, side: GlobalTokenAttention(channels, heads),
        _row(
            "pairwise, with window and with global tokens",
            f"window {_WINDOW}; {_GLOBAL_TOKENS} tokens that see all",
            "yes",
            "heads",
            "softmax, of windows and of global tokens apart",
            "relative position",
            "q, k, v, out; k, v of global tokens",
        ),
        _global_token_macs,
    ),
    Row(
        "ConvMixer",
        "other families",
        _convmixer,
        _row(
            "static",
            f"{_CONVMIXER_SIZE} x {_CONVMIXER_SIZE}",
            "no",
            "C",
            "GELU, BN after",
            "all",
            "none",
        ),
        lambda channels, heads, height, width: height * width * _CONVMIXER_SIZE**2 * channels,
        layout=lambda: cpu_memory_format(_CONVMIXER_SIZE),
    ),
    Row(
        "ParC pair",
        "other families",
        lambda channels, heads, side: ParCPair(channels, side),
        _row(
            "static, resized to the map",
            "own column or own row, circular",
            "no, but a position embedding",
            "C",
            "none",
            "all",
            "none",
        ),
        lambda channels, heads, height, width: height * width * (channels // 2) * (height + width),
        layout=_default_layout,
    ),
    Row(
        "ParC pair, dense",
        "other families",
        lambda channels, heads, side: ParCPair(channels, side, dense=True),
        _row(
            "static, resized to the map",
            "own column or own row, circular",
            "no, but a position embedding",
            "dense in each half of C",
            "none",
            "all",
            "none",
        ),
        lambda channels, heads, height, width: (
            height * width * (channels // 2) ** 2 * (height + width)
        ),
        layout=_default_layout,
    ),
    Row(
        "ParCNetV2 oversize",
        "other families",
        lambda channels, heads, side: OversizeConv(channels, side),
        _row(
            "static",
            "whole column, then whole row",
            "no",
            "C",
            "none",
            "all",
            "none",
        ),
        lambda channels, heads, height, width: (
            height * width * channels * (2 * height - 1 + 2 * width - 1)
        ),
        layout=_default_layout,
    ),
)

# Mixers of other people's, for orientation: described, but neither built nor measured here.
KNOWN_ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    "convolution": _row("static", "k x k", "no", "dense", "none", "all", "none"),
    "FFN": _row("static", "1", "no", "dense", "GELU between two layers", "all", "both"),
    "SE gate": _row(
        "sample: MLP of the mean", "1, and the mean", "no", "C", "sigmoid", "none", "MLP"
    ),
    "CondConv": _row(
        "sample: mixture of static kernels",
        "k x k",
        "no",
        "dense or C",
        "sigmoid over experts",
        "experts",
        "router",
    ),
    "dynamic convolution of experts": _row(
        "sample: mixture of 4 static kernels",
        "k x k",
        "no",
        "dense",
        "softmax over experts, with a temperature",
        "experts",
        "router",
    ),
    "involution": _row(
        "position: MLP of the centre",
        "k x k",
        "yes",
        "groups of 16 channels",
        "none",
        "bias",
        "generator",
    ),
    "DynamicConv of language models": _row(
        "position: linear layer of the centre", "k", "yes", "heads", "softmax over taps", "none",
        "in, out",
    ),
    "DDF": _row(
        "product of a kernel by position and one by channel",
        "k x k",
        "yes",
        "C",
        "norm of the kernels",
        "none",
        "generators",
    ),
    "XCiT": _row(
        "all tokens: products of channels",
        "1, and all tokens",
        "no",
        "dense in each head",
        "L2 over tokens, softmax over channels",
        "none",
        "q, k, v, out",
    ),
    "PVT": _row(
        "pairwise, keys on a coarser map", "global", "yes", "heads", "softmax", "none",
        "q, k, v, out",
    ),
    "CoAtNet": _row(
        "pairwise plus static", "global", "yes", "heads", "softmax", "static kernel inside",
        "q, k, v, out",
    ),
}  # fmt: skip


def describe(row: Row, channels: int, heads: int, side: int) -> dict[str, str]:
    """The row's columns, by the keys of ``COLUMNS``."""
    if row.columns is not None:
        return dict(row.columns)
    mixer = row.build(channels, heads, side)
    columns = mixer.describe()
    layers = {"pairwise": "q, k, v, out", "pooled": "q, out; k, v of the pooled map"}
    columns["layers"] = layers.get(mixer.kernel, "in, out")
    return {key: columns[key] for key in COLUMNS}


class Cost(NamedTuple):
    """What a mixer costs for maps of one size.

    Args:
        mixer: The row's name.
        side: Height and width of the map.
        params: Parameters; those of kernels as long as the map grow with it.
        macs: Multiply-adds for one image, in closed form.
        forward_ms: Inference, median milliseconds of a batch.
        training_ms: Forward and backward pass, for the input and all parameters.
        memory: Bytes at the peak of that, as :func:`peak_memory` counts them.
    """

    mixer: str
    side: int
    params: int
    macs: int
    forward_ms: float
    training_ms: float
    memory: int


def training_pass(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """A function that runs a module forward and backward."""
    x = x.detach().requires_grad_(True)
    leaves = [x, *module.parameters()]
    with torch.no_grad():
        # Not the output itself or ones: gradients behind a norm would be zeros and slow denormals.
        target = torch.randn_like(module(x))

    def run() -> object:
        return torch.autograd.grad(module(x), leaves, target, allow_unused=True)

    return run


def inference_pass(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """A function that runs a module in evaluation mode without gradients."""
    module.eval()

    def run() -> object:
        with torch.no_grad():
            return module(x)

    return run


def measure_costs(
    rows: Sequence[Row],
    side: int,
    channels: int,
    heads: int,
    batch: int,
    device: str,
    rounds: int,
) -> list[Cost]:
    """Measure all rows for one size of map, in turns.

    Args:
        rows: The mixers.
        side: Height and width of the maps, at least 1.
        channels: Channels; a multiple of ``heads`` and of 8.
        heads: Heads.
        batch: Images of a batch, at least 2: BatchNorm cannot train on a single value.
        device: Device type.
        rounds: Turns of each measurement.

    Returns:
        The costs in the order of the rows.
    """
    forward, training, facts = {}, {}, {}
    for row in rows:
        torch.manual_seed(0)
        inference_module = row.build(channels, heads, side).to(device)
        training_module = row.build(channels, heads, side).to(device).train()
        x = torch.randn(batch, channels, side, side, device=device)
        training[row.name] = training_pass(
            training_module, x.contiguous(memory_format=row.layout())
        )
        with torch.no_grad():
            forward[row.name] = inference_pass(
                inference_module, x.contiguous(memory_format=row.layout())
            )
        sizes = (channels, heads, side, side)
        macs = row.macs(*sizes) if row.macs is not None else inference_module.macs(side, side)
        params = sum(parameter.numel() for parameter in inference_module.parameters())
        facts[row.name] = params, macs, peak_memory(training[row.name], device)
    least = 2e-3
    forward_ms = measure(forward, rounds, device, least)
    training_ms = measure(training, rounds, device, least)
    return [
        Cost(name, side, params, macs, forward_ms[name], training_ms[name], memory)
        for name, (params, macs, memory) in facts.items()
    ]


class MemoryCheck(NamedTuple):
    """Peak bytes of LN+ReLU attention, forward and backward.

    Args:
        side: Height and width of the map.
        whole: All queries at once.
        chunks: In chunks, by the size that was asked for.
    """

    side: int
    whole: int
    chunks: Mapping[int | str, int]


def attention_memory(
    channels: int = 96,
    heads: int = 3,
    side: int = 64,
    batch: int = 1,
    device: str = "cpu",
    query_chunks: Iterable[int | str] = ("auto", 512, 128),
) -> MemoryCheck:
    """What computing some queries at a time saves in global LN+ReLU attention.

    Args:
        channels: Channels.
        heads: Heads.
        side: Height and width of the map.
        batch: Images.
        device: Device type.
        query_chunks: Values of the mixer's ``query_chunk``.

    Returns:
        Peaks beyond what the module and its input need.
    """
    x = torch.randn(batch, channels, side, side, device=device)

    def peak(query_chunk: int | str | None) -> int:
        torch.manual_seed(0)
        mixer = make_mixer("ln_relu", channels, heads, query_chunk=query_chunk).to(device)
        return peak_memory(training_pass(mixer, x), device)

    return MemoryCheck(side, peak(None), {chunk: peak(chunk) for chunk in query_chunks})


def window_ratios(
    sides: Iterable[int] = (56, 84, 112, 128),
    channels: int = 96,
    heads: int = 3,
    batch: int = 1,
    device: str = "cpu",
    rounds: int = 7,
) -> list[dict[str, float]]:
    """Inference time of softmax in windows of 7 over that of DW-ViT with 7 x 7 kernels.

    Args:
        sides: Heights and widths of the maps.
        channels: Channels of both.
        heads: Heads of the windows' attention.
        batch: Images.
        device: Device type.
        rounds: Turns of each measurement.

    Returns:
        For each size ``side``, milliseconds of ``dwvit``, ``swin`` and ``swin, shifted``;
        ``ratio``, for windows without a shift, the faster ones; and ``ratio_of_pair``, for the mean
        of both, since stages have them in turns.
    """
    shifted = {"preset": "swin", "shift": _WINDOW // 2}
    results = []
    for side in sides:
        x = torch.randn(batch, channels, side, side, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        functions = {
            name: inference_pass(make_mixer(mixer, channels, heads).to(device), x)
            for name, mixer in (("dwvit", "dwvit"), ("swin", "swin"), ("swin, shifted", shifted))
        }
        times = measure(functions, rounds, device, least=5e-3)
        pair = (times["swin"] + times["swin, shifted"]) / 2
        ratios = {"ratio": times["swin"], "ratio_of_pair": pair}
        ratios = {name: value / times["dwvit"] for name, value in ratios.items()}
        results.append({"side": side, **times, **ratios})
    return results


_STYLES = (
    ("#0072B2", "s", "--"),
    ("#D55E00", "^", "-."),
    ("#009E73", "D", ":"),
    ("#CC79A7", "v", (0, (5, 1))),
    ("#E69F00", "P", (0, (3, 1, 1, 1))),
    ("#56B4E9", "X", (0, (1, 1))),
    ("#666666", "*", (0, (8, 2))),
    ("#882255", "<", (0, (5, 2, 1, 2))),
)


def plot(rows: Sequence[Row], costs: Sequence[Cost], title: str, path: Path) -> None:
    """Inference time over the number of tokens, one panel for each family, with two guides.

    Args:
        rows: The mixers.
        costs: Their costs at all sizes.
        title: Above the panels.
        path: PNG file to write.
    """
    times: dict[str, dict[int, float]] = {}
    for cost in costs:
        times.setdefault(cost.mixer, {})[cost.side**2] = cost.forward_ms
    families = list(dict.fromkeys(row.family for row in rows if row.name in times))
    figure = Figure(figsize=(5.6 * len(families), 7.0), layout="constrained")
    panels = figure.subplots(1, len(families), sharex=True, sharey=True, squeeze=False)[0]
    tokens = sorted({cost.side**2 for cost in costs})
    fastest = min(min(points.values()) for points in times.values())
    for panel, family in zip(panels, families, strict=True):
        for power, dashes, label in ((1, (0, (2, 4)), "~ n"), (2, (0, (6, 6)), "~ n²")):
            guide = [0.7 * fastest * (n / tokens[0]) ** power for n in tokens]
            panel.loglog(tokens, guide, color="0.6", linestyle=dashes, linewidth=1, label=label)
        names = [row.name for row in rows if row.family == family and row.name in times]
        styles = iter(_STYLES)
        for name in ["deit", *(name for name in names if name != "deit")]:
            if name not in times:
                continue
            is_reference = name == "deit"  # in every panel, to compare with
            colour, marker, dashes = ("black", "o", "-") if is_reference else next(styles)
            points = sorted(times[name].items())
            panel.loglog(
                *zip(*points, strict=True),
                color=colour,
                marker=marker,
                linestyle=dashes,
                linewidth=2.2 if is_reference else 1.4,
                label="deit (softmax, global)" if is_reference else name,
            )
        panel.set(title=family, xlabel="tokens n = height x width")
        panel.set_xticks(tokens, [f"{n}\n({math.isqrt(n)}²)" for n in tokens])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(
            fontsize=9, handlelength=4.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16)
        )
    panels[0].set_ylabel("inference, milliseconds")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
