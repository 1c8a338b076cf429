"""The token mixers of all families side by side: what they are, as data, and what they cost.

Every mixer is read as a convolution whose kernel is stored or made from the input, which follows
the abstract of arXiv:2309.10713; the columns and the rows are ours. ``mixers.csv`` describes the
mixers of other families and of other people's; those of this package's presets describe themselves.
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from shared import (
    FOLDER,
    command_line,
    line_styles,
    markdown_table,
    measure,
    print_table,
    threads,
    write_csv,
)
from torch import Tensor, nn

from mmvitconv.cli import UsageError, execute
from mmvitconv.cli.arguments import positive
from mmvitconv.datasets.progress import progress
from mmvitconv.models.backbones.convmixer import Block as ConvMixerBlock
from mmvitconv.models.backbones.convmixer import ConvMixerArch
from mmvitconv.models.backbones.fcvit import FCViTArch, GlobalContext, Mix
from mmvitconv.models.backbones.lightvit import Attention, Tokens, WindowGrid
from mmvitconv.models.layers import MIXERS, OversizeConv, ParCPair, make_mixer
from mmvitconv.models.layers.mixers import GlobalMixer, Mixer
from mmvitconv.models.layers.window import relative_position_index
from mmvitconv.zoo.costs import count_complexity, peak_memory

# Keys of a description and what tables call them.
COLUMNS: Mapping[str, str] = {
    "kernel": "kernel made from",
    "reach": "reach",
    "per_position": "differs by position",
    "groups": "shared by channels",
    "activation": "activation, norm",
    "static_term": "static term",
    "layers": "1x1 layers inside",
}
COSTS = {
    "params": "parameters",
    "macs": "10^6 multiply-adds",
    "forward_ms": "inference ms",
    "training_ms": "training ms",
    "memory": "training MiB",
}
_LAYERS = {"pairwise": "q, k, v, out", "pooled": "q, out; k, v of the pooled map"}
with (FOLDER / "mixers.csv").open(newline="") as _file:
    _DESCRIBED = {row.pop("mixer"): row for row in csv.DictReader(_file)}
# Mixers of other people's, for orientation: described, but neither built nor measured here.
KNOWN_ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    name: row for name, row in _DESCRIBED.items() if row.pop("where") == "elsewhere"
}
# As released: kernels of ConvMixer and FCViT, windows and global tokens of LightViT.
_CONVMIXER_SIZE, _FCVIT_SIZE, _FCVIT_REDUCTION = 9, 11, 8
_PLAIN = torch.contiguous_format
_WINDOW, _GLOBAL_TOKENS = 7, 8
_FAMILIES = ("global attention", "windows, neighbourhoods, depth-wise kernels", "other families")


class GlobalTokenAttention(nn.Module):
    """LightViT's attention for a map, with global tokens of its own."""

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


class Row(NamedTuple):
    """A mixer of the table."""

    name: str
    family: str  # where it comes from; panels of the plot
    # Makes it for a number of channels, heads and the side of a map; takes and gives (B, C, H, W).
    build: Callable[[int, int, int], nn.Module]
    layout: torch.memory_format = torch.channels_last  # in which its backbone works


def _preset(name: str) -> Row:
    family = _FAMILIES[0 if issubclass(MIXERS[name][0], GlobalMixer) else 1]
    return Row(name, family, lambda channels, heads, side: make_mixer(name, channels, heads))


def _mix(channels: int, heads: int, side: int) -> nn.Module:
    arch = FCViTArch(depths=(1,), embed_dims=(channels,), mlp_ratios=(4,), num_heads=heads)
    return Mix(channels, _FCVIT_SIZE, arch)


def _convmixer(channels: int, heads: int, side: int) -> nn.Module:
    arch = ConvMixerArch(channels, 1, _CONVMIXER_SIZE, 1)
    return ConvMixerBlock(arch, {"type": "GELU"}, {"type": "BN"}, 0.0, None)[0]


_OTHERS = _FAMILIES[2]
_IN_WINDOWS = {"preset": "ln_relu", "reach": "window", "bias": "rel_table"}
ROWS: tuple[Row, ...] = (
    *map(_preset, MIXERS),
    Row("ln_relu, windows", _FAMILIES[1], lambda c, heads, side: make_mixer(_IN_WINDOWS, c, heads)),
    Row(
        "FCViT global context",
        _OTHERS,
        lambda c, heads, side: GlobalContext(
            c, heads, _FCVIT_REDUCTION, compete=True, weighted=True
        ),
    ),
    Row("FCViT mix", _OTHERS, _mix),
    Row("LightViT attention", _OTHERS, lambda c, heads, side: GlobalTokenAttention(c, heads)),
    Row("ConvMixer", _OTHERS, _convmixer, _PLAIN),
    Row("ParC pair", _OTHERS, lambda c, heads, side: ParCPair(c, side), _PLAIN),
    Row("ParC pair, dense", _OTHERS, lambda c, heads, side: ParCPair(c, side, dense=True), _PLAIN),
    Row("ParCNetV2 oversize", _OTHERS, lambda c, heads, side: OversizeConv(c, side), _PLAIN),
)


def describe(row: Row, channels: int, heads: int, side: int) -> dict[str, str]:
    """Return the row's columns, by the keys of ``COLUMNS``."""
    if row.name in _DESCRIBED:
        return dict(_DESCRIBED[row.name])
    mixer = row.build(channels, heads, side)
    columns = {**mixer.describe(), "layers": _LAYERS.get(mixer.kernel, "in, out")}
    return {key: columns[key] for key in COLUMNS}


class Cost(NamedTuple):
    """What a mixer costs for maps of one size."""

    mixer: str
    side: int  # height and width of the map
    params: int  # those of kernels as long as the map grow with it
    macs: int  # for one image
    forward_ms: float  # inference, median milliseconds of a batch
    training_ms: float  # forward and backward pass, for the input and all parameters
    memory: int  # bytes at the peak of that

    def cells(self) -> list[str]:
        """Return the costs as the tables show them."""
        times = (f"{self.forward_ms:.3f}", f"{self.training_ms:.3f}")
        return [f"{self.params:,}", f"{self.macs / 1e6:.2f}", *times, f"{self.memory / 2**20:.1f}"]


def training_pass(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a function that runs a module forward and backward."""
    x = x.detach().requires_grad_(True)
    leaves = [x, *module.train().parameters()]
    with torch.no_grad():
        # Not the output itself or ones: gradients behind a norm would be zeros and slow denormals.
        target = torch.randn_like(module(x))
    return lambda: torch.autograd.grad(module(x), leaves, target, allow_unused=True)


def inference_pass(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a function that runs a module in evaluation mode without gradients."""
    module.eval()
    return torch.no_grad()(lambda: module(x))


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

    ``channels`` are a multiple of ``heads`` and of 8; a batch has at least 2 images, as BatchNorm
    cannot train on a single value.
    """
    forward, training, facts = {}, {}, {}
    for row in rows:
        torch.manual_seed(0)
        modules = [row.build(channels, heads, side) for _ in range(3)]
        image = torch.empty(1, channels, side, side, device="meta")
        found = count_complexity(modules.pop().to("meta").eval(), image)
        is_preset = isinstance(modules[0], Mixer)
        macs = modules[0].macs(side, side) if is_preset else found.macs.total
        x = torch.randn(batch, channels, side, side, device=device)
        x = x.contiguous(memory_format=row.layout)
        forward[row.name] = inference_pass(modules[0].to(device), x)
        training[row.name] = training_pass(modules[1].to(device), x)
        facts[row.name] = found.params, macs, peak_memory(training[row.name], device)
    times = [measure(functions, rounds, 2e-3) for functions in (forward, training)]
    return [
        Cost(name, side, params, macs, times[0][name], times[1][name], memory)
        for name, (params, macs, memory) in facts.items()
    ]


def attention_memory(
    channels: int = 96,
    heads: int = 3,
    side: int = 64,
    device: str = "cpu",
    query_chunks: Iterable[int | str | None] = (None, "auto", 512, 128),
) -> dict[int | str | None, int]:
    """Return the peak bytes of global LN+ReLU attention's two passes, by its query chunk."""
    x = torch.randn(1, channels, side, side, device=device)

    def peak(query_chunk: int | str | None) -> int:
        torch.manual_seed(0)
        mixer = make_mixer("ln_relu", channels, heads, query_chunk=query_chunk).to(device)
        return peak_memory(training_pass(mixer, x), device)

    return {chunk: peak(chunk) for chunk in query_chunks}


def window_ratios(
    sides: Iterable[int] = (56, 84, 112, 128),
    channels: int = 96,
    heads: int = 3,
    device: str = "cpu",
    rounds: int = 7,
) -> list[dict[str, float]]:
    """Compare inference of softmax in windows of 7 with DW-ViT's 7 x 7 kernels.

    Returns:
        For each size ``side``, milliseconds of ``dwvit``, ``swin`` and ``swin, shifted``;
        ``ratio`` of windows without a shift, the faster ones, over ``dwvit``; and
        ``ratio_of_pair`` of the mean of both, since stages have them in turns.
    """
    mixers = {"dwvit": "dwvit", "swin": "swin"}
    mixers["swin, shifted"] = {"preset": "swin", "shift": _WINDOW // 2}
    results = []
    for side in sides:
        x = torch.randn(1, channels, side, side, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        functions = {
            name: inference_pass(make_mixer(mixer, channels, heads).to(device), x)
            for name, mixer in mixers.items()
        }
        times = measure(functions, rounds, least=5e-3)
        pair = (times["swin"] + times["swin, shifted"]) / 2
        ratios = {"ratio": times["swin"] / times["dwvit"], "ratio_of_pair": pair / times["dwvit"]}
        results.append({"side": side, **times, **ratios})
    return results


def plot(rows: Sequence[Row], costs: Sequence[Cost], title: str, path: Path) -> None:
    """Plot inference time over the number of tokens, a panel for each family, with two guides."""
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
        names = ["deit", *(row.name for row in rows if row.family == family)]  # to compare with
        names = [name for name in dict.fromkeys(names) if name in times]
        for name, style in line_styles(names, "deit"):
            panel.loglog(*zip(*sorted(times[name].items()), strict=True), **style)
        panel.set(title=family, xlabel="tokens n = height x width")
        panel.set_xticks(tokens, [f"{n}\n({math.isqrt(n)}²)" for n in tokens])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        panel.legend(fontsize=9, handlelength=4.5, ncols=2, **below)
    panels[0].set_ylabel("inference, milliseconds")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def sentences_of_checks(
    memory: Mapping[int | str | None, int], ratios: Sequence[Mapping[str, float]], side: int = 64
) -> list[str]:
    """Say what was asked of the mixers, and what was measured."""
    whole = memory[None]
    found = ", ".join(
        f"{size / whole:.3f} of that ({size / 2**20:.0f} MiB) with query_chunk={chunk!r}"
        for chunk, size in memory.items()
        if chunk is not None
    )
    return [
        f"LN+ReLU attention over {side} x {side} tokens, one image, forward and backward: "
        f"{whole / 2**20:.0f} MiB at the peak with all queries at once, {found}. Asked: at "
        "most 0.25."
    ] + [
        f"Inference at {row['side']} x {row['side']}, one image: `dwvit` {row['dwvit']:.2f} ms, "
        f"`swin` {row['swin']:.2f} ms, with shifted windows {row['swin, shifted']:.2f} ms: `dwvit` "
        f"is {row['ratio']:.2f} times as fast as `swin` without a shift, and "
        f"{row['ratio_of_pair']:.2f} times as fast as both in turns, as a stage has them. Asked on "
        "CPUs: 1.3."
        for row in ratios
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``arguments`` are None for ``sys.argv``. Return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, names = parser.add_argument, [row.name for row in ROWS]
    sides = {"nargs": "+", "default": [14, 28, 56], "metavar": "SIDE"}
    add("--sizes", type=positive, **sides, help="of the maps")
    add("--channels", type=int, default=96, help="a multiple of --heads and of 8")
    add("--heads", type=int, default=3, help="of attention")
    add("--batch", type=int, default=2, help="images, at least 2, for BatchNorm")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device type")
    add("--threads", type=positive, default=torch.get_num_threads(), help="of the CPU")
    add("--rounds", type=positive, default=5, help="turns of each measurement")
    add("--mixers", nargs="+", choices=names, default=names, metavar="NAME", help="rows")
    checks = "leave out the memory of LN+ReLU attention, and DW-ViT against windows"
    add("--no-checks", action="store_true", help=checks)
    files = "folder for mixers.md, mixers.csv and mixers.png"
    add("--out", type=Path, default=Path("work_dirs/compare_mixers"), help=files)
    return execute(parser, lambda: _run_command(parser.parse_args(given), given))


def _run_command(options: argparse.Namespace, given: Sequence[str]) -> None:
    """Measure, and write and print the tables."""
    if options.batch < 2:
        raise UsageError(f"--batch must be at least 2 for BatchNorm to train, got {options.batch}")
    if options.channels % options.heads or options.channels % 8:
        raise UsageError(
            f"--channels must be a multiple of --heads and of 8, got {options.channels}"
        )
    rows = [row for row in ROWS if row.name in options.mixers]
    sizes, device = (options.channels, options.heads), options.device
    descriptions = {row.name: describe(row, *sizes, options.sizes[0]) for row in rows}
    costs, checks = [], []
    with threads(options.threads):
        for side in progress(options.sizes, "measuring"):
            costs += measure_costs(rows, side, *sizes, options.batch, device, options.rounds)
        if not options.no_checks:
            ratios = window_ratios(channels=sizes[0], heads=sizes[1], device=device)
            checks = sentences_of_checks(attention_memory(*sizes, device=device), ratios)
    where = f"CPU ({platform.machine()}), threads: {options.threads}"
    if device == "cuda":
        where = torch.cuda.get_device_name()
    setting = f"{options.channels} channels, {options.heads} heads, batches of {options.batch}"
    command = command_line("tools/analysis_tools/compare_mixers.py", given)
    turns = f"torch {torch.__version__}; medians of {options.rounds} turns"
    memory = (
        "what the allocator had at most beyond module and input"
        if device == "cuda"
        else "the storages of tensors alive at the peak, beyond module and input; scratch space "
        "inside an operator is not seen, so the number is the same at every run"
    )
    header = ["mixer", *COLUMNS.values()]
    ours = [[name, *columns.values()] for name, columns in descriptions.items()]
    tables = [("Token mixers side by side", header, ours)]
    for side in options.sizes:
        cells = [[cost.mixer, *cost.cells()] for cost in costs if cost.side == side]
        tables.append((f"{side} x {side}, {side**2} tokens", ["mixer", *COSTS.values()], cells))
    text = (
        (FOLDER / "mixers.tmpl")
        .read_text("utf-8")
        .format(
            source=f"Written by `{command}`: {setting}, {where}, {turns}.",
            ours=markdown_table(*tables[0][1:]),
            others=markdown_table(
                header, [[n, *row.values()] for n, row in KNOWN_ELSEWHERE.items()]
            ),
            batch=options.batch,
            memory=memory,
            costs="\n\n".join(f"### {t}\n\n{markdown_table(*table)}" for t, *table in tables[1:]),
        )
    )
    if checks:
        text += "\n## What was asked\n\n" + "\n".join(f"- {check}" for check in checks) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "mixers.md").write_text(text, encoding="utf-8")
    cells = [
        (
            *(cost.mixer, cost.side, cost.side**2, cost.params, cost.macs),
            *(f"{cost.forward_ms:.4f}", f"{cost.training_ms:.4f}", cost.memory),
            *descriptions[cost.mixer].values(),
        )
        for cost in costs
    ]
    columns = ["mixer", "side", "tokens", *COSTS, *COLUMNS]
    write_csv(options.out / "mixers.csv", columns, cells)
    plot(rows, costs, f"Token mixers: {setting}, {where}", options.out / "mixers.png")
    for table in tables:
        print_table(*table, width=150)
    print(*checks, f"wrote mixers.md, mixers.csv and mixers.png to {options.out}", sep="\n")
