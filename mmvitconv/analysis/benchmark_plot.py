"""Plots of a benchmark: multiply-adds or accuracy over latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps

from mmvitconv.analysis.benchmark_models import is_ours
from mmvitconv.analysis.benchmark_results import Row, best_variants
from mmvitconv.analysis.pictures import new_figure, save_figure

__all__ = ["plot_results"]


def plot_results(
    rows: Sequence[Row], folder: Path, accuracies: Mapping[str, float] | None = None
) -> list[Path]:
    """Draw one picture for each size, batch and pass, with a panel for each type and mode.

    A model is a point at its faster layout; the other layout is a pale point beside it; models
    of timm are hollow.

    Args:
        rows: The measurements.
        folder: Where to write ``plot-PASS-SHAPE-bBATCH.png``; made if it does not exist.
        accuracies: Published top-1 in per cent by model, for the vertical axis instead of
            multiply-adds; models without one are left out, which the picture says.

    Returns:
        The pictures; none of a group with no model to show.
    """
    paths = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        heights = accuracies
        if heights is None:
            heights = {row.model: row.macs / 1e9 for row in members}
        if shown := [row for row in members if row.model in heights]:
            hidden = sorted({row.model for row in members} - set(heights))
            paths.append(_plot(shown, folder, heights, accuracies is None, hidden))
    return paths


def _plot(
    rows: Sequence[Row],
    folder: Path,
    heights: Mapping[str, float],
    of_macs: bool,
    hidden: Sequence[str],
) -> Path:
    panels = list(dict.fromkeys((row.dtype, row.mode) for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    first = rows[0]
    figure = new_figure(
        (5.5 * len(panels) + 2.5, 6),
        first.group,
        f"{first.device}, {first.threads} threads, torch {first.torch}",
        f"backbones without heads; median of {first.rounds} rounds",
        *([f"without a published accuracy: {', '.join(hidden)}"] if hidden else []),
    )
    points = {}
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        members = [row for row in rows if (row.dtype, row.mode) == panel]
        best = best_variants(members)
        for row in members:
            colour = colormaps["tab20"](models.index(row.model) % 20)
            points[f"{row.model} {row.layout}"] = axis.scatter(
                row.median_ms,
                heights[row.model],
                s=60,
                marker={"nchw": "o", "nhwc": "s"}[row.layout],
                alpha=1.0 if row in best else 0.35,
                edgecolors=colour,
                facecolors=colour if is_ours(row.model) else "none",
            )
        axis.set(title=" ".join(panel), xlabel="milliseconds (median)", xscale="log")
        axis.set_yscale("log" if of_macs else "linear")
        axis.grid(alpha=0.3, which="both")
        axis.set_ylabel(
            "multiply-adds of an image, 10^9" if of_macs else "published ImageNet-1k top-1, %"
        )
    figure.legend(points.values(), points, loc="outside right upper", fontsize=9,
                  title="hollow: timm; pale: slower layout", title_fontsize=8)  # fmt: skip
    return save_figure(figure, folder / f"plot-{first.pass_}-{first.shape}-b{first.batch}.png")
