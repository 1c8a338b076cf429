"""Plots of a benchmark: multiply-adds or accuracy over latency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from mmvitconv.analysis.benchmark_results import Row, best_variants, groups_of

__all__ = ["plot_results"]

_MARKERS = {"nchw": "o", "nhwc": "s"}
_OURS, _PEERS = "#1f5fbf", "#c25700"
_PANEL = (7.0, 5.2)  # inches
_DPI = 120
_MAX_COLUMNS = 2
# Where a label may stand from its point: points of distance, then right and up.
_DISTANCES = (7, 12, 20, 30, 42, 56)
_DIRECTIONS = ((-1, 0), (0, 1), (0, -1), (-1, 1), (-1, -1), (1, 1), (1, -1), (1, 0))


class Point(NamedTuple):
    """A model in a panel.

    Args:
        name: Its label.
        fastest: Milliseconds of its fastest layout.
        slowest: Of its slowest.
        height: On the vertical axis.
        colour: Of the point and its label.
    """

    name: str
    fastest: float
    slowest: float
    height: float
    colour: str


def plot_results(
    rows: Sequence[Row],
    folder: Path,
    ours: Sequence[str],
    accuracies: Mapping[str, float] | None = None,
) -> list[Path]:
    """Draw one picture for each size, batch and pass, with a panel for each type and mode.

    A model is a labelled point at its faster layout; the other layout is a pale point beside it.

    Args:
        rows: The measurements.
        folder: Where to write ``plot-PASS-SHAPE-bBATCH.png``; made if it does not exist.
        ours: Names of the models of mmvitconv; all others have another colour.
        accuracies: Published top-1 in per cent by model, for the vertical axis instead of
            multiply-adds; models without one are left out, which the picture says.

    Returns:
        The pictures; none of a group with no model to show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for group, members in groups_of(rows).items():
        shown = [row for row in members if accuracies is None or row.model in accuracies]
        if not shown:
            continue
        first = shown[0]
        path = folder / f"plot-{first.pass_}-{first.shape}-b{first.batch}.png"
        hidden = sorted({row.model for row in members} - {row.model for row in shown})
        figure = _figure(group, shown, set(ours), accuracies, hidden)
        figure.savefig(path)
        paths.append(path)
    return paths


def _figure(
    group: str,
    rows: Sequence[Row],
    ours: set[str],
    accuracies: Mapping[str, float] | None,
    hidden: Sequence[str],
) -> Figure:
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(f"{row.dtype} {row.mode}", []).append(row)
    columns = min(_MAX_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    size = (_PANEL[0] * columns, _PANEL[1] * lines + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    points = []
    for axis, (title, members) in zip(axes, panels.items(), strict=False):
        points.append((axis, _panel(axis, members, ours, accuracies)))
        axis.set_title(title)
    for axis in axes[len(panels) :]:
        axis.remove()
    about = rows[0]
    threads = f"{about.threads} thread{'s' if about.threads > 1 else ''}"
    notes = [
        f"{about.device}, {threads}, torch {about.torch}",
        f"backbones without heads; median of {about.rounds} rounds",
    ]
    if hidden:
        notes.append(f"without a published accuracy: {', '.join(hidden)}")
    figure.suptitle("\n".join([group, *notes]), fontsize=11)
    figure.canvas.draw()  # fixes the layout, which labels depend on
    figure.set_layout_engine("none")
    for axis, named in points:
        _label(axis, named)
    return figure


def _panel(
    axis: Any, rows: Sequence[Row], ours: set[str], accuracies: Mapping[str, float] | None
) -> list[Point]:
    """Draw the points of one type and mode; their labels come when the layout is fixed."""

    def height(row: Row) -> float:
        return row.macs / 1e9 if accuracies is None else accuracies[row.model]

    best = best_variants(rows)
    axis.set_xscale("log")
    if accuracies is None:
        axis.set_yscale("log")
    fastest = {row.model: row for row in best}
    for row in rows:
        colour = _colour(row, ours)
        is_best = row is fastest[row.model]
        point = row.median_ms, height(row)
        if not is_best:
            ends = [row.median_ms, fastest[row.model].median_ms], [point[1]] * 2
            axis.plot(*ends, color=colour, alpha=0.25, linewidth=1, zorder=1)
        axis.scatter(
            *point,
            color=colour,
            marker=_MARKERS.get(row.layout, "D"),
            s=46 if is_best else 24,
            alpha=1.0 if is_best else 0.35,
            zorder=3 if is_best else 2,
            label="_",
        )
    for layout in dict.fromkeys(row.layout for row in rows):
        axis.scatter([], [], color="grey", marker=_MARKERS.get(layout, "D"), label=layout)
    if len(best) < len(rows):
        axis.scatter([], [], color="grey", alpha=0.35, s=24, label="slower layout")
    for name, colour in (("mmvitconv", _OURS), ("timm", _PEERS)):
        axis.scatter([], [], color=colour, label=name)
    axis.legend(fontsize=8, loc="best")
    axis.set_xlabel("milliseconds (median)")
    axis.set_ylabel(
        "multiply-adds of an image, 10^9"
        if accuracies is None
        else "published ImageNet-1k top-1, %"
    )
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for each in (axis.xaxis, axis.yaxis) if accuracies is None else (axis.xaxis,):
        each.set_major_locator(LogLocator(subs=(1, 2, 5)))
        each.set_major_formatter(plain)
        each.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    axis.margins(0.15)
    slowest = {row.model: row.median_ms for row in sorted(rows, key=lambda row: row.median_ms)}
    return [
        Point(row.model, row.median_ms, slowest[row.model], height(row), _colour(row, ours))
        for row in best
    ]


def _colour(row: Row, ours: set[str]) -> str:
    return _OURS if row.model in ours else _PEERS


def _label(axis: Any, points: Sequence[Point]) -> None:
    """Write each name at the first free place around its point, with a line to it if far away."""
    renderer = axis.figure.canvas.get_renderer()
    frame = axis.get_window_extent(renderer)
    taken = [axis.get_legend().get_window_extent(renderer)]
    for point in points:
        left, middle = axis.transData.transform((point.fastest, point.height))
        right = axis.transData.transform((point.slowest, point.height))[0]
        taken.append(Bbox.from_extents(left - 6, middle - 6, right + 6, middle + 6))
    for name, x, _, y, colour in sorted(points, key=lambda point: (-point.height, point.fastest)):
        text = axis.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8)
        places = []
        for distance, (right, up) in product(_DISTANCES, _DIRECTIONS):
            text.set_horizontalalignment({1: "left", 0: "center", -1: "right"}[right])
            text.set_verticalalignment({1: "bottom", 0: "center", -1: "top"}[up])
            text.set_position((distance * right, distance * up))
            box = text.get_window_extent(renderer)
            outside = sum(not low <= value <= high for value, low, high in (
                (box.x0, frame.x0, frame.x1), (box.x1, frame.x0, frame.x1),
                (box.y0, frame.y0, frame.y1), (box.y1, frame.y0, frame.y1)))  # fmt: skip
            overlaps = sum(map(box.overlaps, taken)) + outside
            places.append((overlaps, len(places), box, distance, right, up))
            if not overlaps:
                break
        _, _, box, distance, right, up = min(places, key=lambda place: place[:2])
        text.remove()
        axis.annotate(
            name,
            (x, y),
            xytext=(distance * right, distance * up),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            horizontalalignment={1: "left", 0: "center", -1: "right"}[right],
            verticalalignment={1: "bottom", 0: "center", -1: "top"}[up],
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.6}
            if distance > _DISTANCES[0]
            else None,
            zorder=4,
        )
        taken.append(box)
