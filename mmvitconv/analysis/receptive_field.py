"""Effective receptive fields: which pixels the centre of a feature map depends on, and how much.

After Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks", arXiv:1701.04128, and the high-contribution area ratios of RepLKNet, arXiv:2203.06717.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmvitconv.analysis.pictures import (
    device_of,
    fit,
    new_figure,
    plain,
    read_image,
    show_bar,
    show_image,
)
from mmvitconv.apis.images import find_images
from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError
from mmvitconv.models.base import Backbone
from mmvitconv.zoo.loading import LoadedModel

__all__ = [
    "THRESHOLDS",
    "Reach",
    "contribution_within",
    "draw_receptive_fields",
    "even_layer_scales",
    "folder_images",
    "measure_reach",
    "network_receptive_field",
    "noise_images",
    "noise_view",
    "receptive_field",
    "write_reach",
]

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
_FLOOR = 1e-4  # darkest colour, over the largest contribution
# Least gradient of the sum over channels, over that of another combination; rounding is 1e-6.
_LEAST_SUM = 1e-4


@dataclass(frozen=True)
class Reach:
    """The smallest centred square that holds a share of all contributions."""

    threshold: float  # the share, in (0, 1]
    side: int  # of the square in pixels
    side_ratio: float  # over the image's (longer) side
    area_ratio: float  # over the image's area: RepLKNet's high-contribution area ratio


def receptive_field(
    model: Callable[[Tensor], Any], images: Iterable[Tensor], stage: int = -1
) -> np.ndarray:
    """Return how much each pixel contributes to the centre of a feature map.

    The centre position of the output, summed over channels, is derived by the input; absolute
    values are summed over the input's channels and averaged over the images.

    Args:
        model: Gives a map of shape (B, C, h, w) or a sequence of them.
        images: Inputs of one size, each of shape (B, in_channels, H, W).
        stage: Which of the maps.

    Returns:
        Shape (H, W), float64; nothing is negative.

    Raises:
        UserError: The output is not a map, or it or its sum over channels does not depend on the
            input.
    """
    total, count = None, 0
    for image in images:
        image = image.detach().clone().requires_grad_()
        with torch.enable_grad():
            out = _choose(model(image), stage)
            if out.dim() != 4:
                raise UserError(
                    f"an output of shape {tuple(out.shape)} has no centre; give a model whose "
                    "output is a map (B, C, H, W)"
                )
            centre = out[:, :, out.shape[2] // 2, out.shape[3] // 2]
            if total is None:
                _check_sum(centre, image)
            (gradient,) = torch.autograd.grad(centre.sum(), image)
        contribution = gradient.abs().double().sum(dim=(0, 1)).cpu().numpy()
        total = contribution if total is None else total + contribution
        count += len(image)
    if total is None:
        raise UserError("there is no image to measure with; give at least one")
    if not (np.isfinite(total).all() and total.sum() > 0):
        raise UserError(
            "the gradient of the centre by the image is zero or not finite, so there is no "
            "receptive field; try other weights or another stage"
        )
    return total / count


def _check_sum(centre: Tensor, image: Tensor) -> None:
    """Refuse a sum over channels that is a constant, whose gradient is rounding."""
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(2, centre.shape[1:], generator=generator).to(centre) - 1
    plain, signed = (
        torch.autograd.grad(value.sum(), image, retain_graph=True)[0].abs().sum().item()
        for value in (centre, centre * signs)
    )
    if plain < _LEAST_SUM * signed:
        raise UserError(
            "the sum over the channels of this output does not depend on the image, as behind a "
            f"norm over channels (its gradient is {plain / signed:.0e} of that of another "
            "combination of them), so there is no receptive field; try another stage or model"
        )


def _choose(outs: Tensor | Sequence[Tensor], stage: int) -> Tensor:
    if isinstance(outs, Tensor):
        return outs
    if not -len(outs) <= stage < len(outs):
        raise UserError(
            f"stage must be an output of the model, -{len(outs)} to {len(outs) - 1}, got {stage}"
        )
    return outs[stage]


def network_receptive_field(
    loaded: LoadedModel, images: Sequence[Tensor], stage: int = -1
) -> np.ndarray:
    """Return the receptive field of a model, before the norm of its output, with a progress bar.

    A LayerNorm over channels would make the sum over channels a constant.

    Args:
        loaded: The model.
        images: Inputs, each of shape (B, in_channels, H, W).
        stage: Which of its outputs.

    Returns:
        See :func:`receptive_field`.
    """
    module = loaded.module
    model: Callable[[Tensor], Any] = module
    if not isinstance(module, Backbone):
        if hasattr(module, "forward_intermediates"):  # timm's, with the maps of all stages
            model = partial(module.forward_intermediates, intermediates_only=True)
        elif hasattr(module, "forward_features"):  # timm's others, with the last one
            model = module.forward_features
    inputs = [image.to(device_of(loaded)) for image in images]
    with ExitStack() as stack:
        for norm in _output_norms(module, model, inputs[:1], stage):
            hook = norm.register_forward_hook(lambda _norm, given, _out: given[0])
            stack.callback(hook.remove)
        bar = progress(inputs, f"receptive field of {loaded.name}")
        return receptive_field(model, bar, stage)


def even_layer_scales(model: nn.Module) -> int:
    """Set layer scales that nobody has trained to 1.

    They start as one small number, 1e-6 in a ConvNeXt, so that an untrained block adds nothing that
    can be seen.

    Args:
        model: Changed in place: its vectors all of whose entries are the same number between 0 and
            1, which no norm and no bias is; the slopes of PReLU stay as they are.

    Returns:
        How many there are.
    """
    count = 0
    slopes = {id(module.weight) for module in model.modules() if isinstance(module, nn.PReLU)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in slopes:
                continue
            first = parameter.flatten()[0]
            is_vector = parameter.numel() == max(parameter.shape, default=0) > 1
            if is_vector and 0 < first < 1 and (parameter == first).all():
                parameter.fill_(1.0)
                count += 1
    return count


def _output_norms(
    module: nn.Module, model: Callable[[Tensor], Any], images: Sequence[Tensor], stage: int
) -> list[nn.Module]:
    """Return the norms over channels whose output the model returns, but for the order of axes."""
    given: dict[nn.Module, Any] = {}
    found: list[nn.Module] = []
    with ExitStack() as stack, torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, (nn.LayerNorm, nn.GroupNorm)):
                hook = norm.register_forward_hook(lambda norm, _, out: given.update({norm: out}))
                stack.callback(hook.remove)
        for image in images:
            out = _choose(model(image), stage)
            found += [norm for norm, value in given.items() if _is_same(value, out)]
    return found


def _is_same(value: Any, out: Any) -> bool:
    """Return whether two maps or token sequences are equal, channels first or last."""
    if not (isinstance(value, Tensor) and isinstance(out, Tensor)) or value.dim() < 3:
        return False
    orders = [value] if value.shape == out.shape else []
    if value.numel() == out.numel():
        orders.append(value.movedim(-1, 1).reshape(out.shape))
    return any(torch.equal(order, out) for order in orders)


def noise_images(loaded: LoadedModel, size: int, count: int, seed: int) -> list[Tensor]:
    """Return inputs of standard normal noise, each of shape (1, in_channels, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, loaded.in_channels, size, size)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def noise_view(image: Tensor) -> np.ndarray:
    """Return how an input of noise looks, shape (H, W, 3), uint8."""
    view = (image[0].permute(1, 2, 0).numpy() * 50 + 128).clip(0, 255).astype(np.uint8)
    return view if view.shape[2] == 3 else np.repeat(view[:, :, :1], 3, axis=2)


def folder_images(folder: str | Path, size: int, count: int) -> list[np.ndarray]:
    """Return the first images of a folder and those in it, each of shape (size, size, 3), uint8."""
    paths = find_images(folder, recursive=True)[:count]
    return [fit(read_image(path), (size, size)) for path in paths]


def contribution_within(contribution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what centred squares hold.

    Args:
        contribution: Shape (H, W).

    Returns:
        For squares of side 1, 3, 5 and so on, cut off at the borders: the share of all
        contributions and the share of all pixels inside.
    """
    height, width = contribution.shape
    rows, columns = np.mgrid[:height, :width]
    ring = np.maximum(abs(rows - height // 2), abs(columns - width // 2)).ravel()
    inside = np.bincount(ring, weights=contribution.ravel()).cumsum()
    return inside / inside[-1], np.bincount(ring).cumsum() / contribution.size


def measure_reach(
    contribution: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> list[Reach]:
    """Return the smallest centred squares that hold given shares of all contributions.

    Args:
        contribution: Shape (H, W).
        thresholds: Shares, in (0, 1].

    Returns:
        One for each threshold.
    """
    if any(not 0 < threshold <= 1 for threshold in thresholds):
        raise UserError(f"thresholds must be shares in (0, 1], got {tuple(thresholds)}")
    held, area = contribution_within(contribution)
    longest = max(contribution.shape)
    reaches = []
    for threshold in thresholds:
        radius = int(np.argmax(held >= threshold * (1 - 1e-12)))  # sums round
        side = min(2 * radius + 1, longest)
        reaches.append(Reach(threshold, side, side / longest, float(area[radius])))
    return reaches


def write_reach(
    path: Path, reaches: Mapping[str, Sequence[Reach]], settings: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write a table (CSV) and the same with the settings (JSON) beside a picture.

    Args:
        path: Of the picture.
        reaches: By model.
        settings: How it was measured.

    Returns:
        Paths of CSV and JSON.
    """
    rows = [{"model": name, **asdict(reach)} for name, found in reaches.items() for reach in found]
    table, full = path.with_suffix(".csv"), path.with_suffix(".json")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    full.write_text(
        json.dumps({"settings": dict(settings), "reach": rows}, indent=2) + "\n", encoding="utf-8"
    )
    return table, full


def draw_receptive_fields(
    fields: Mapping[str, np.ndarray], source: np.ndarray, note: str
) -> Figure:
    """Draw receptive fields side by side, and what centred squares hold of them.

    Args:
        fields: Contributions of shape (H, W), by a title for each.
        source: The first of the images, shape (H, W, 3), uint8.
        note: What was measured, for the title.
    """
    columns = min(len(fields) + 1, 4)
    rows = -(-(len(fields) + 1) // columns)
    figure = new_figure(
        (max(3.1 * columns + 0.8, 8.5), 3.4 * rows + 3.6),
        "Effective receptive field: what the centre of the output depends on",
        note,
    )
    maps, below = figure.subfigures(2, 1, height_ratios=(3.4 * rows, 3.2))
    axes = maps.subplots(rows, columns, squeeze=False).ravel()
    colours = {"norm": LogNorm(_FLOOR, 1), "cmap": "inferno"}
    show_image(axes[0], source, "input (first of them)")
    for axis in axes[len(fields) + 1 :]:
        axis.axis("off")
    for axis, (name, field) in zip(axes[1:], fields.items(), strict=False):
        show_image(axis, (field / field.max()).clip(_FLOOR), plain(name), **colours)
    label = f"contribution / largest (log; below {_FLOOR:g} black)"
    show_bar(maps, axes, label, shrink=0.85)

    plot, table = below.subplots(1, 2, width_ratios=(3, 2))
    wanted = ", ".join(f"{threshold:.0%}" for threshold in THRESHOLDS)
    for name, field in fields.items():
        held, _ = contribution_within(field)
        sides = np.minimum(2 * np.arange(len(held)) + 1, max(field.shape)) / max(field.shape)
        ratios = ", ".join(f"{reach.side_ratio:.1%}" for reach in measure_reach(field))
        plot.plot(sides, held, label=f"{plain(name)}\n{ratios}")
    for threshold in THRESHOLDS:
        plot.axhline(threshold, color="grey", linewidth=0.7, linestyle=":")
    plot.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="side of a centred square / side of the image")
    plot.set_ylabel("share of all contributions")
    table.axis("off")
    handles, labels = plot.get_legend_handles_labels()
    title = f"side ratios that hold {wanted}"
    table.legend(handles, labels, fontsize=8, loc="center left", title=title, title_fontsize=9)
    return figure
