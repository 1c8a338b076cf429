"""Write the tables and the picture of ``docs/choose.md``.

python tools/misc/write_choose.py [--check]

Published accuracy comes from the ledger (``configs/sources.yml``), sizes from the table behind
``mmvitconv list``, time and memory from what ``mmvitconv benchmark`` has left in
``docs/benchmark``. ``--check`` writes nothing and fails when the page or the picture shows other
numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from mmvitconv.analysis.benchmark_results import read_results
from mmvitconv.cli import execute
from mmvitconv.zoo.table import read_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/choose.md"
PICTURE = ROOT / "docs/images/choose.png"
TABLE = re.compile(r"(?<=<!-- choose: begin -->\n).*?(?=<!-- choose: end -->)", re.DOTALL)
TOP1 = "Top 1 Accuracy"
REFERENCE = "resnet50"  # its time is 1
# Each file is of one process, in which all models took turns with the reference.
MEASURED = "docs/benchmark/choose-*.json"
# Of the configs of an architecture, those whose figures have a column.
SHOWN = re.compile(r".*_(imagenet|ade20k)|maskrcnn_.*(?<!_3x)_coco")
MODES = {"eager": "eager", "openvino": "OpenVINO"}
SIZES = {5: "About 5 M parameters", 15: "About 15 M", 30: "About 30 M", 60: "50 M and more"}
COLUMNS = {  # titles and where their cells are aligned
    "backbone": "---",
    "parameters": "---:",
    "MACs": "---:",
    "ImageNet top-1": "---:",
    "Mask R-CNN 1x, box / mask": "---:",
    "ADE20K, mIoU": "---",
    **{f"time, {mode}": "---:" for mode in MODES.values()},
    "memory": "---:",
}
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'|'.join(COLUMNS.values())}|\n"


@dataclass(frozen=True)
class Choice:
    """A row: what is known of a backbone."""

    name: str
    link: str  # of ours its ImageNet config, from docs; of others empty
    family: str  # of others empty
    size: int  # a key of SIZES
    parameters: int | None
    macs: int | None
    top1: str  # as it was published
    boxes: str
    pixels: str
    sources: tuple[str, ...]
    times: Mapping[str, float]  # by mode, in REFERENCE's in eager mode
    memory: float | None  # MiB

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        times = (f"{self.times[key]:.2f}" if key in self.times else "-" for key in MODES)
        return (
            f"[`{self.name}`]({self.link})" if self.link else f"*{self.name}*",
            "-" if self.parameters is None else f"{self.parameters / 1e6:.1f} M",
            "-" if self.macs is None else f"{self.macs / 1e9:.2f} G",
            self.top1,
            self.boxes,
            self.pixels,
            *times,
            "-" if self.memory is None else f"{self.memory:.1f} MiB",
        )


def size_of(parameters: int) -> int:
    """The size to which a number of parameters is nearest, in proportion."""
    return min(SIZES, key=lambda size: abs(math.log(parameters / 1e6 / size)))


def read_choices(root: Path = ROOT) -> list[Choice]:
    """Collect all backbones with a published accuracy, ours and others, the best first.

    Args:
        root: The repository.
    """
    ledger = yaml.load((root / "configs/sources.yml").read_text("utf-8"), yaml.BaseLoader)
    quoted: dict[str, tuple[Mapping[str, str], str]] = {}
    for entry in ledger:
        for name, figures in entry.get("figures", {}).items():
            quoted.setdefault(name, (figures, entry["source"]))
    measured = read_measured(root)
    found = []
    for family in read_table().values():
        for arch in family.archs:
            paths = {Path(config.path).stem: config.path for config in arch.configs}
            shown = [name for name in paths if name in quoted and SHOWN.fullmatch(name)]
            known = {name: quoted[name] for name in shown}
            label = f"{arch.family}:{arch.arch}"
            sources = tuple(dict.fromkeys(source for _, source in known.values()))
            for name, (figures, _) in known.items():
                if name.endswith("_imagenet"):
                    found.append(
                        Choice(
                            name.removesuffix("_imagenet"),
                            f"../{paths[name]}",
                            arch.family,
                            size_of(arch.parameters),
                            arch.parameters,
                            arch.macs_224,
                            figures[TOP1],
                            *dense_figures({key: one for key, (one, _) in known.items()}),
                            sources,
                            *measured.get(label, ({}, None, None))[:2],
                        )
                    )
    for entry in ledger:
        for name, peer in entry.get("peers", {}).items():
            times, memory, costs = measured.get(peer.get("timm", ""), ({}, None, (None, None)))
            size, top1 = int(peer["Size"]), peer[TOP1]
            dense = boxes_of(peer), peer.get("mIoU", "-")
            sources = (f"{entry['source']}, {entry['version']}",)
            found.append(Choice(name, "", "", size, *costs, top1, *dense, sources, times, memory))
    return sorted(found, key=lambda choice: -float(choice.top1))


def boxes_of(figures: Mapping[str, str]) -> str:
    """Boxes and masks as the table shows them."""
    return f"{figures['box AP']} / {figures['mask AP']}" if "mask AP" in figures else "-"


def dense_figures(known: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """Mask R-CNN 1x and ADE20K, from what is published for the configs of an architecture."""
    boxes, pixels = ["-"], ["-"]
    for name, figures in known.items():
        if name.startswith("maskrcnn_"):
            boxes.append(boxes_of(figures))
        if name.endswith("_ade20k"):
            other = "" if name.startswith("upernet_") else " (Semantic FPN)"
            pixels.append(figures["mIoU"] + other)
    return boxes[-1], pixels[-1]


def read_measured(root: Path) -> dict[str, tuple[dict[str, float], float | None, tuple[int, int]]]:
    """Read times in the reference's, memory, and costs, by the name of a model."""
    found: dict[str, Any] = {}
    for path in sorted(root.glob(MEASURED)):
        best: dict[tuple[str, str], Any] = {}  # of both layouts the faster one
        for row in read_results(path):
            key = row.model, row.mode
            if key not in best or row.median_ms < best[key].median_ms:
                best[key] = row
        for (name, mode), row in best.items():
            times, memory, costs = found.get(name, ({}, None, (row.params, row.macs)))
            times[mode] = row.median_ms / best[REFERENCE, "eager"].median_ms
            found[name] = times, row.peak_mb if mode == "eager" else memory, costs
    return found


def tables_of(choices: Sequence[Choice]) -> str:
    """The tables of all sizes, and where the figures of others come from."""
    parts = []
    for size, title in SIZES.items():
        rows = [choice for choice in choices if choice.size == size]
        lines = "".join(f"| {' | '.join(choice.cells())} |\n" for choice in rows)
        parts.append(f"\n### {title}\n\n{HEADER}{lines}")
    sources: dict[str, list[str]] = {}
    for choice in choices:
        for source in choice.sources:
            name = f"`{choice.name}`" if choice.link else choice.name
            sources.setdefault(source, []).append(name)
    lines = "".join(f"- {source}: {', '.join(names)}\n" for source, names in sources.items())
    return "".join(parts) + f"\n### Where the published figures stand\n\n{lines}\n"


def points_of(choices: Sequence[Choice]) -> str:
    """What the picture shows, as it is written into its file."""
    shown = [
        (
            *(one.name, one.family, one.size, float(one.top1)),
            *(round(one.times.get(mode, 0), 2) for mode in MODES),
        )
        for one in choices
    ]
    return json.dumps(shown)


def draw(choices: Sequence[Choice], path: Path) -> None:
    """Draw accuracy by size and over time.

    Args:
        choices: What to show.
        path: The picture, PNG.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    families = list(dict.fromkeys(one.family for one in choices if one.family))
    colours = dict(zip(families, (*plt.get_cmap("Dark2").colors, (0, 0, 0)), strict=False))
    colours[""] = "0.5"
    figure, (upper, *lower) = plt.subplots(
        1 + len(MODES), 1, figsize=(11, 6.25 * (1 + len(MODES))), layout="constrained"
    )
    for column, size in enumerate(SIZES):
        for side in (-1, 1):  # ours, others
            rows = [one for one in choices if (one.size, bool(one.family)) == (size, side < 0)]
            spots = [(column + 0.03 * side, float(one.top1)) for one in rows]
            _label(upper, rows, spots, 0.1 * side, colours)
    titles = [title.replace(" parameters", "") for title in SIZES.values()]
    upper.set_xticks(range(len(SIZES)), titles)
    upper.set_xlim(-0.7, len(SIZES) - 0.5)
    upper.set_xlabel("parameters")
    shares = [one.times[mode] for one in choices for mode in MODES if mode in one.times]
    ticks = range(math.floor(math.log2(min(shares))), math.ceil(math.log2(max(shares))) + 1)
    for axes, (mode, title) in zip(lower, MODES.items(), strict=True):
        timed = [one for one in choices if mode in one.times]
        spots = [(math.log2(one.times[mode]), float(one.top1)) for one in timed]
        _label(axes, timed, spots, 0.12, colours)
        axes.set_xticks(ticks, [f"{2.0**tick:g}" for tick in ticks])
        axes.set_xlim(ticks[0], ticks[-1] + 0.8)
        axes.set_xlabel(f"time of one image ({title}), in ResNet-50's eager times (one CPU core)")
    for axes in (upper, *lower):
        axes.set_ylabel("ImageNet top-1, published (%)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    upper.set_title("Circles: in this package. Diamonds: models of others.", fontsize=10)
    figure.savefig(path, dpi=100, metadata={"Description": points_of(choices)})
    plt.close(figure)


def _label(
    axes: Any,
    rows: Sequence[Choice],
    spots: Sequence[tuple[float, float]],
    offset: float,
    colours: Mapping[str, Any],
) -> None:
    """Draw points, the best first, and their names beside them, moved apart."""
    heights = spread([top1 for _, top1 in spots], 0.33)
    for one, (x, y), height in zip(rows, spots, heights, strict=True):
        colour = colours[one.family]
        axes.plot(x, y, "o" if one.family else "D", ms=6, color=colour)
        axes.annotate(
            one.name.removeprefix("dynconv_").removesuffix("_softmax"),
            (x, y),
            (x + offset, height),
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.7", "shrinkB": 3},
            color=colour,
            fontsize=9,
            ha="left" if offset > 0 else "right",
            va="center",
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move values apart, as little as possible, until neighbours are ``gap`` apart.

    Args:
        values: Descending numbers.
        gap: In their unit.
    """
    groups: list[list[float]] = []  # that touch: each the centres that its members want
    for value in values:
        groups.append([value])
        while len(groups) > 1:
            low, high = groups[-1], groups[-2]
            distance = sum(high) / len(high) - sum(low) / len(low)
            if distance >= gap * (len(low) + len(high)) / 2:
                break
            groups[-2:] = [high + low]
    return [
        sum(group) / len(group) + gap * ((len(group) - 1) / 2 - number)
        for group in groups
        for number in range(len(group))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0; 1 after a mistake, or if ``--check`` finds old numbers.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something is old")
    return execute(parser, lambda: _update(parser.parse_args(arguments).check))


def _update(checks: bool) -> int:
    """Bring page and picture up to date, or say which is old."""
    choices = read_choices()
    before = PAGE.read_text("utf-8")
    page = TABLE.sub(lambda _: tables_of(choices), before)
    old = [PAGE] if page != before else []
    if not PICTURE.is_file() or Image.open(PICTURE).text.get("Description") != points_of(choices):
        old.append(PICTURE)
    if not checks:
        PAGE.write_text(page, "utf-8")
        if PICTURE in old:
            draw(choices, PICTURE)
    for path in old:
        print(f"{'out of date' if checks else 'written'}: {path}")
    if checks and old:
        print("bring them up to date with: python tools/misc/write_choose.py", file=sys.stderr)
    return int(checks and bool(old))


if __name__ == "__main__":
    sys.exit(main())
