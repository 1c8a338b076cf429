"""Plots of a benchmark: multiply-adds or accuracy over latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmvitconv.analysis.benchmark_results import Row, best_variants, groups_of

__all__ = ["plot_results"]

_MARKERS = {"nchw": "o", "nhwc": "s"}


def plot_results(
    rows: Sequence[Row],
    folder: Path,
    ours: Sequence[str],
    accuracies: Mapping[str, float] | None = None,
) -> list[Path]:
    """Draw one picture for each size, batch and pass, with a panel for each type and mode.

    A model is a point at its faster layout; the other layout is a pale point beside it.

    Args:
        rows: The measurements.
        folder: Where to write ``plot-PASS-SHAPE-bBATCH.png``; made if it does not exist.
        ours: Names of the models of mmvitconv; the points of all others are hollow.
        accuracies: Published top-1 in per cent by model, for the vertical axis instead of
            multiply-adds; models without one are left out, which the picture says.

    Returns:
        The pictures; none of a group with no model to show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for group, members in groups_of(rows).items():
        heights = (
            {row.model: row.macs / 1e9 for row in members} if accuracies is None else accuracies
        )
        shown = [row for row in members if row.model in heights]
        if not shown:
            continue
        hidden = sorted({row.model for row in members} - {row.model for row in shown})
        first = shown[0]
        notes = [
            f"{first.device}, {first.threads} threads, torch {first.torch}",
            f"backbones without heads; median of {first.rounds} rounds",
        ]
        if hidden:
            notes.append(f"without a published accuracy: {', '.join(hidden)}")
        figure = _figure(shown, heights, set(ours))
        figure.suptitle("\n".join([group, *notes]), fontsize=11)
        for axis in figure.axes:
            axis.set_ylabel("multiply-adds of an image, 10^9" if accuracies is None
                            else "published ImageNet-1k top-1, %")  # fmt: skip
            axis.set_yscale("log" if accuracies is None else "linear")
        paths.append(folder / f"plot-{first.pass_}-{first.shape}-b{first.batch}.png")
        figure.savefig(paths[-1])
    return paths


def _figure(rows: Sequence[Row], heights: Mapping[str, float], ours: set[str]) -> Figure:
    """Return the panels of one group with a legend of models and layouts."""
    panels = list(dict.fromkeys((row.dtype, row.mode) for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    colours = {model: colormaps["tab20"](index % 20) for index, model in enumerate(models)}
    figure = Figure(figsize=(5.5 * len(panels) + 2.5, 6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        members = [row for row in rows if (row.dtype, row.mode) == panel]
        best = best_variants(members)
        for row in members:
            axis.scatter(
                row.median_ms,
                heights[row.model],
                s=60,
                marker=_MARKERS[row.layout],
                alpha=1.0 if row in best else 0.35,
                edgecolors=colours[row.model],
                facecolors=colours[row.model] if row.model in ours else "none",
            )
        axis.set(title=" ".join(panel), xlabel="milliseconds (median)", xscale="log")
        axis.grid(alpha=0.3, which="both")
    handles = [
        Line2D([], [], color=colours[model], marker="o", linestyle="", label=model,
               markerfacecolor=colours[model] if model in ours else "none")
        for model in models
    ]  # fmt: skip
    handles += [
        Line2D([], [], color="grey", marker=_MARKERS[layout], linestyle="", label=layout)
        for layout in dict.fromkeys(row.layout for row in rows)
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=9,
                  title="hollow: timm; pale: slower layout", title_fontsize=8)  # fmt: skip
    return figure
