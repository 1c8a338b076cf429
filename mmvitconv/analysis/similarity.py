"""FCViT's token-global similarity: how much of the global context each position receives.

A global context (arXiv:2212.12552) compares each token with the mean of all tokens, head by head.
The similarities, standardised over heads and tokens and rescaled for each head, are the weights
with which one context vector is added to the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmvitconv.analysis.pictures import draw_rows
from mmvitconv.errors import UserError
from mmvitconv.models.backbones.fcvit import GlobalContext

__all__ = [
    "SimilarityMap",
    "capture_similarity",
    "context_weights",
    "draw_similarity",
    "select_similarity",
]

_COLUMNS = 6  # maps in a row


class SimilarityMap(NamedTuple):
    """The weights of one global context."""

    layer: str  # name of the module
    stage: int  # from 0 on
    block: int  # in the stage
    mix: int  # which of the block's contexts it is
    weights: np.ndarray  # what its context vector is multiplied with, shape (heads, H, W)


def context_weights(context: GlobalContext, x: Tensor) -> Tensor:
    """Compute the weights of a context vector, by the formula.

    Args:
        context: A weighted global context.
        x: Its input, shape (B, C, H, W).

    Returns:
        Shape (B, heads, H, W): ``context(x) == x + weights * vector`` for each head's channels.
    """
    heads = x.float().unflatten(1, (context.num_heads, -1))  # B, heads, d, H, W
    mean = heads.mean(dim=(3, 4), keepdim=True)
    similarity = (heads * mean).sum(dim=2) * heads.shape[2] ** -0.5
    count = similarity[0].numel()
    deviation, centre = torch.std_mean(
        similarity, dim=(1, 2, 3), correction=min(1, count - 1), keepdim=True
    )
    standardised = (similarity - centre) / (deviation + context.eps)
    scale, shift = (
        value.view(1, -1, 1, 1) for value in (context.rescale_weight, context.rescale_bias)
    )
    return standardised * scale + shift


def capture_similarity(model: nn.Module, image: Tensor) -> list[SimilarityMap]:
    """Return the weights of all global contexts for an image.

    Args:
        model: FCViT, or any model that holds one.
        image: Its input, shape (1, in_channels, H, W).

    Returns:
        One for each context, in the order in which they run.

    Raises:
        UserError: The model has no weighted global context.
    """
    maps: list[SimilarityMap] = []
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, GlobalContext) or module.rescale_weight is None:
                continue

            def keep(context: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                stage, block, mix = [int(part) for part in name.split(".") if part.isdigit()][-3:]
                weights = context_weights(context, inputs[0])[0].cpu().numpy()
                maps.append(SimilarityMap(name, stage, block, mix, weights))

            stack.callback(module.register_forward_pre_hook(keep).remove)
        model(image)
    if not maps:
        raise UserError(
            f"{type(model).__name__} has no similarity of tokens with a global context; give an "
            "FCViT with use_global_context=True and weighted_context=True"
        )
    return maps


def select_similarity(
    maps: Sequence[SimilarityMap], stage: int | None = None, block: int | None = None
) -> list[SimilarityMap]:
    """Return the maps of a stage or of a block.

    Args:
        maps: From :func:`capture_similarity`.
        stage: Which; None for all. Negative ones count from the end.
        block: Which of each stage's blocks; None for all. Negative ones count from the end.

    Raises:
        UserError: There are none.
    """
    depths = {m.stage: m.block + 1 for m in maps}
    stages = list(depths)
    if stage is not None:
        if not -len(stages) <= stage < len(stages):
            raise UserError(f"stage must be -{len(stages)} to {len(stages) - 1}, got {stage}")
        maps = [m for m in maps if m.stage == stages[stage]]
    if block is not None:
        maps = [m for m in maps if m.block == (block if block >= 0 else block + depths[m.stage])]
        if not maps:
            raise UserError(
                f"there is no block {block}; the stages have "
                f"{', '.join(map(str, depths.values()))} blocks, counted from 0"
            )
    return list(maps)


def draw_similarity(
    maps: Sequence[SimilarityMap],
    source: np.ndarray,
    note: str,
    by_head: bool = False,
) -> Figure:
    """Draw similarity maps over the image: a row for each stage, or each context by heads.

    Args:
        maps: What is drawn.
        source: The image, shape (H, W, 3), uint8.
        note: The model and the image, for the title.
        by_head: One row for each context with the mean and each head, instead of the means of the
            contexts of each stage.
    """
    rows = []
    if by_head:
        for m in maps:
            titles = ["mean of heads", *(f"head {index}" for index in range(len(m.weights)))]
            name = f"stage {m.stage}, block {m.block}, mix {m.mix}"
            rows.append((name, titles, [m.weights.mean(axis=0), *m.weights]))
    else:
        for stage in sorted({m.stage for m in maps}):
            of_stage = [m for m in maps if m.stage == stage]
            if len(of_stage) > _COLUMNS:  # evenly, the first and the last included
                picks = np.linspace(0, len(of_stage) - 1, _COLUMNS).round().astype(int)
                of_stage = [of_stage[index] for index in picks]
            titles = [f"block {m.block}, mix {m.mix}" for m in of_stage]
            height, width = of_stage[0].weights.shape[1:]
            name = f"stage {stage}: {height} x {width} tokens"
            rows.append((name, titles, [m.weights.mean(axis=0) for m in of_stage]))
    by = "by head" if by_head else "mean of the heads"
    title = f"Similarity of each token with the global context, {by}", note
    return draw_rows(rows, source, title, "weight (0: average)", is_signed=True)
