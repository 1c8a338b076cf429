"""How much attention depends on the query and on the head, and how sparse it is.

FCViT (arXiv:2212.12552) starts from two observations on trained Vision Transformers: attention of
different queries is much alike, and few keys have most of the weight. These numbers show both,
layer by layer.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import isnan, log, nan
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmvitconv.analysis.attention import AttentionMap, capture_attention
from mmvitconv.analysis.pictures import new_figure, show_image
from mmvitconv.errors import UserError

__all__ = [
    "MASS",
    "AttentionStatistics",
    "attention_statistics",
    "draw_statistics",
    "entropy",
    "head_similarity",
    "keys_for_mass",
    "query_similarity",
    "summarise",
    "write_statistics",
]

MASS = 0.9
_PANELS = {
    "query_similarity": "similarity of queries\n(cosine of two rows; 1: query-irrelevant)",
    "head_similarity": "similarity of heads\n(cosine of two heads' rows)",
    "entropy": "entropy of a row / log(keys)\n(1: all keys alike, 0: one key)",
    "keys_for_mass": f"keys that hold {MASS:.0%} of a row / keys\n(small: sparse)",
}


@dataclass(frozen=True)
class AttentionStatistics:
    """Means over the rows of a layer, a row being the weights of one query in one head.

    NaN stands for what needs two queries, two heads or two keys where there is one.
    """

    depth: int  # which of the model's attention layers, from 0 on
    layer: str  # name of the module
    kind: str  # see AttentionMap
    heads: int
    queries: int  # of a window for windows
    keys: int  # of each query
    query_similarity: float  # cosine of the rows of two queries in the same head (and window)
    head_similarity: float  # cosine of the rows of two heads for the same query
    entropy: (
        float  # of a row whose absolute values sum to 1, over the logarithm of the keys' number
    )
    keys_for_mass: float  # share of the keys that hold 90 % of a row, the largest first


def _pair_cosine(rows: Tensor, dim: int) -> Tensor:
    """Return the mean cosine of all pairs of different rows along an axis; NaN without a pair.

    Rows of zeros, which a ReLU may leave, have no direction and are left out.
    """
    units = F.normalize(rows.double(), dim=-1, eps=1e-300)
    count = (units != 0).any(dim=-1).sum(dim=dim).double()
    # The square of a sum is the sum over all pairs, those of a row with itself included.
    total = units.sum(dim=dim).square().sum(dim=-1)
    pairs = (count * (count - 1)).clamp(min=0)
    return ((total - count) / pairs).masked_fill(pairs == 0, nan)


def query_similarity(weights: Tensor) -> float:
    """Return the mean cosine of the rows of two queries.

    Args:
        weights: Shape (B, heads, queries, keys).

    Returns:
        1 if no row depends on its query; NaN with one query.
    """
    return _mean(_pair_cosine(weights, dim=2))


def head_similarity(weights: Tensor) -> float:
    """Return the mean cosine of the rows of two heads for the same query.

    Args:
        weights: Shape (B, heads, queries, keys).

    Returns:
        1 if all heads do the same; NaN with one head.
    """
    return _mean(_pair_cosine(weights, dim=1))


def _shares(weights: Tensor) -> Tensor:
    """Return rows of absolute values that sum to 1, shape (rows, keys), without rows of zeros."""
    rows = weights.double().abs().flatten(0, -2)
    rows = rows[rows.sum(dim=-1) > 0]
    return rows / rows.sum(dim=-1, keepdim=True)


def entropy(weights: Tensor) -> float:
    """Return the mean entropy of the rows over the logarithm of the number of keys.

    Args:
        weights: Shape (..., queries, keys).

    Returns:
        1 if all keys weigh the same, 0 if one has all the weight; NaN with one key.
    """
    if weights.shape[-1] == 1:
        return nan
    shares = _shares(weights)
    return _mean(-(shares.xlogy(shares)).sum(dim=-1) / log(weights.shape[-1]))


def keys_for_mass(weights: Tensor, mass: float = MASS) -> float:
    """Return the mean share of the keys that hold a part of a row's weight, the largest first.

    Args:
        weights: Shape (..., queries, keys).
        mass: The part, in (0, 1].
    """
    shares = _shares(weights)
    held = shares.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    missing = (held < mass - 1e-9).sum(dim=-1)  # sums round
    return _mean((missing + 1).double() / weights.shape[-1])


def _mean(values: Tensor) -> float:
    """Return the mean without NaN."""
    return float(values.nanmean()) if values.numel() else nan


def summarise(attention: AttentionMap, depth: int = 0) -> AttentionStatistics:
    """Return the statistics of one layer, without masked windows.

    A mask gives queries different keys, whatever they ask for, so that its windows would say
    nothing about the attention.

    Args:
        attention: Its weights.
        depth: Which of the model's layers it is.

    Returns:
        NaN if all windows are masked.
    """
    weights = attention.weights
    if attention.masked is not None:
        weights = weights[~attention.masked]
    return AttentionStatistics(
        depth,
        attention.layer,
        attention.kind,
        *weights.shape[1:],
        query_similarity(weights),
        head_similarity(weights),
        entropy(weights),
        keys_for_mass(weights),
    )


def attention_statistics(model: nn.Module, images: Iterable[Tensor]) -> list[AttentionStatistics]:
    """Return the statistics of all layers of a model, means over images.

    Args:
        model: In evaluation mode; see :func:`capture_attention`.
        images: Inputs of one size, each of shape (B, in_channels, H, W).

    Returns:
        One for each layer and kind; of layers that cut a map into windows of several shapes the
        largest counts, and no masked window of layers that shift them.

    Raises:
        UserError: The model has no attention that can be read, or there is no image.
    """
    runs = [capture_attention(model, image, summarise) for image in images]
    if not runs:
        raise UserError("there is no image to measure with; give at least one")
    merged: list[AttentionStatistics] = []
    depths: dict[str, int] = {}
    for found in zip(*runs, strict=True):
        first = found[0]
        depth = depths.setdefault(first.layer, len(depths))
        last = merged[-1] if merged else None
        if last is not None and (last.layer, last.kind) == (first.layer, first.kind):
            continue
        values = {name: _mean_of([getattr(one, name) for one in found]) for name in _PANELS}
        merged.append(AttentionStatistics(**{**asdict(first), **values, "depth": depth}))
    return merged


def _mean_of(values: Sequence[float]) -> float:
    numbers = [value for value in values if not isnan(value)]
    return sum(numbers) / len(numbers) if numbers else nan


def write_statistics(statistics: Sequence[AttentionStatistics], path: Path) -> Path:
    """Write the statistics as CSV beside a picture; NaN becomes empty.

    Args:
        statistics: Of all layers.
        path: Of the picture.

    Returns:
        Path of the table.
    """
    table = path.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(AttentionStatistics)])
        writer.writeheader()
        for row in map(asdict, statistics):
            writer.writerow({key: "" if value != value else value for key, value in row.items()})
    return table


def draw_statistics(
    statistics: Sequence[AttentionStatistics], source: np.ndarray, note: str
) -> Figure:
    """Plot the statistics over the depth, beside the (first) image.

    Args:
        statistics: Of all layers.
        source: The image, shape (H, W, 3), uint8.
        note: The model and the image, for the title.
    """
    figure = new_figure((12, 6.5), "Attention over the depth of the model", note)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.2))
    upper, lower = left.subplots(2, 1)
    show_image(upper, source, "input (first of them)")
    lower.axis("off")
    axes = right.subplots(2, 2, sharex=True)
    kinds = list(dict.fromkeys(row.kind for row in statistics))
    for axis, (name, label) in zip(axes.ravel(), _PANELS.items(), strict=True):
        for kind in kinds:
            rows = [row for row in statistics if row.kind == kind]
            values = [getattr(row, name) for row in rows]
            axis.plot([row.depth for row in rows], values, marker="o", markersize=4, label=kind)
        values = [value for row in statistics if not isnan(value := getattr(row, name))]
        if not values:
            axis.text(0.5, 0.5, "not defined here", ha="center", transform=axis.transAxes)
        axis.set_ylim(min(0.0, *values, 0.0) - 0.03, 1.05)
        axis.set_title(label, fontsize=9)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[1]:
        axis.set_xlabel("attention layer")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    meaning = {
        "global": "global: every token reads all",
        "window": "window: tokens read their window",
        "gather": "gather: global tokens read all",
        "read": "read: tokens read global tokens",
    }
    lower.legend(handles, [meaning[label] for label in labels], fontsize=9, loc="upper left")
    return figure
