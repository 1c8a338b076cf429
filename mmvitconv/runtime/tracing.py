"""From a module to an ONNX graph that takes any batch and any image size.

The graph is written by torch's TorchScript-based exporter. It records arithmetic on sizes as it
records any other, so that sizes stay open without being solved for: in seconds, where the exporter
based on torch.export reasons about sizes for minutes and gives up on windows. What it cannot record
are decisions of Python on a size; modules that make some are swapped in a copy for a form of the
same formula that makes none.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.backbones.lightvit import Attention as LightViTAttention
from mmvitconv.models.backbones.lightvit import LightViT
from mmvitconv.models.layers.mixers import WindowAttention
from mmvitconv.models.layers.window import from_windows, to_windows
from mmvitconv.ops import attention

__all__ = ["DYNAMIC_AXES", "OPSET", "TRACED_SHAPE", "open_sizes", "quiet", "write_onnx"]

OPSET = 20
# Kernels of ParC follow the map. Where a map has just the stored length, as at 224 x 224, a tracer
# would record that nothing is resized; no stored length belongs to these primes.
TRACED_SHAPE = (307, 397)
# What may differ between calls, of tensors (B, C, H, W): by name, the axes.
DYNAMIC_AXES = {"batch": (0,), "size": (2, 3), "both": (0, 2, 3), "none": ()}


def write_onnx(
    module: nn.Module,
    path: Path,
    inputs: Sequence[Tensor],
    names: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    opset: int = OPSET,
) -> None:
    """Write a module as an ONNX file, without stack traces and paths of this machine.

    Args:
        module: In evaluation mode; takes the inputs and gives a tensor or a tuple of them.
        path: File to write, with the weights.
        inputs: What it is traced with.
        names: Of the inputs.
        outputs: Names of the outputs.
        axes: Which axes are open, and what they are called, by the name of an input or output.
        opset: Version of the operators.

    Raises:
        Exception: Whatever the exporter raises when it cannot express the module.
    """
    torch._C._jit_set_onnx_log_enabled(False)  # it would print the graph of what it cannot express
    with quiet(), torch.no_grad(), patch.object(Tensor, "unflatten", _unflatten):
        torch.onnx.export(
            open_sizes(module),
            tuple(inputs),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=list(names),
            output_names=list(outputs),
            dynamic_axes={name: dict(open_axes) for name, open_axes in axes.items()},
        )


def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Do what ``unflatten`` does; the exporter would take the traced shape for the only one."""
    dim = dim % x.dim()
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print and log to themselves."""
    before = logging.root.manager.disable
    sink = io.StringIO()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def open_sizes(module: nn.Module) -> nn.Module:
    """Return a copy of a module that decides nothing by the size of its input.

    Args:
        module: In evaluation mode. Its tensors are shared with the copy.
    """
    memo = {id(t): t for t in (*module.parameters(), *module.buffers())}
    module = copy.deepcopy(module, memo)
    for part in module.modules():
        part.__class__ = _OPEN.get(type(part), type(part))
    return module


class _OpenPool(nn.AdaptiveAvgPool2d):
    """Adaptive pooling as two products with matrices of means, made from the size."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool a map (B, C, H, W)."""
        size = self.output_size
        rows, columns = (size, size) if isinstance(size, int) else size
        if (rows, columns) == (1, 1):
            return x.mean((2, 3), keepdim=True)
        down = _means(rows, x.shape[2])
        right = _means(columns, x.shape[3])
        return down @ x @ right.transpose(0, 1)


def _means(cells: int | None, length: int) -> Tensor:
    """Return the matrix that gives the mean of each cell of an axis, shape (cells, length)."""
    if cells is None:
        return torch.eye(length)
    position = torch.arange(length)
    cell = torch.arange(cells)[:, None]
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = ((position >= start) & (position < end)).float()
    return inside / inside.sum(1, keepdim=True)


class _RowGrid:
    """Stands for LightViT's ``WindowGrid``: tokens stay in their rows."""

    def __init__(self, height: int, width: int, window_size: int, index: Tensor) -> None:
        self.height, self.width, self.window_size, self.index = height, width, window_size, index

    def to_windows(self, x: Tensor) -> Tensor:
        """Return the tokens of a map (B, H, W, C) row by row, shape (B, H * W, C)."""
        return x.flatten(1, 2)

    def to_map(self, x: Tensor) -> Tensor:
        """Undo :meth:`to_windows`."""
        return x.reshape(-1, self.height, self.width, x.shape[-1])


class _OpenLightViT(LightViT):
    """LightViT with tokens in rows."""

    grid = _RowGrid


class _OpenLightViTAttention(LightViTAttention):
    """LightViT's attention, whose windows are cut and filled up by arithmetic on the map's size."""

    def _attend_locally(self, q: Tensor, kv: Tensor, grid: _RowGrid) -> Tensor:
        size, channels = grid.window_size, self.q.out_features
        heads = (self.num_heads, channels // self.num_heads)
        # A slot of the padding has the key and value of a row of zeros.
        pad = self.kv(kv.new_zeros(1, channels))
        kv = to_windows(grid.to_map(kv.flatten(2) - pad), size) + pad
        q = to_windows(grid.to_map(q.flatten(2)), size).unflatten(2, heads)
        bias = self.relative_position_bias_table.t().index_select(1, grid.index)
        bias = bias.view(self.num_heads, size**2, size**2)
        out = attention(q, *kv.unflatten(2, (2, *heads)).unbind(2), bias).flatten(2)
        out = from_windows(out, size, grid.height, grid.width)
        return out.reshape(-1, grid.height * grid.width, *heads)


class _OpenWindowAttention(WindowAttention):
    """Attention in shifted windows that are cut by arithmetic on the map's size."""

    def mix(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map (B, H, W, C)."""
        batch, height, width, _ = x.shape
        size = self.size
        shifts = [
            torch.where(torch.as_tensor(side) > size, self.shift, 0) for side in (height, width)
        ]
        valid = x.new_ones(1, height, width, 1)
        follows_swin = self.rule.act == "softmax"
        if not follows_swin:
            x, valid = (_fill_up(values, size) for values in (x, valid))
        windows = to_windows(_rolled(x, shifts), size)
        q, k, v = self.split_heads(windows)
        bias = None
        if self.relative_position_bias_table is not None:
            bias = self.relative_position_bias_table[self.relative_position_index]
            bias = bias.view(size * size, size * size, -1).permute(2, 0, 1)
        whole = _fill_up(x[:1, ..., :1], size)
        rows, columns = (
            torch.arange(length) >= length - shift
            for length, shift in zip(whole.shape[1:3], shifts, strict=True)
        )
        region = (2 * rows[:, None].int() + columns.int())[None, :, :, None]
        if not follows_swin:
            region = torch.where(_rolled(valid, shifts) > 0, region, -1)
        region = to_windows(region, size)[..., 0]
        seen = (region.unsqueeze(1) == region.unsqueeze(2)) & (region >= 0).unsqueeze(1)
        seen = seen[None, :, None].expand(batch, -1, -1, -1, -1).flatten(0, 1)
        if follows_swin:
            bias = torch.where(seen, q.new_zeros(()) if bias is None else bias, -math.inf)
            seen = None
        out = self.attend(q, k, v, bias, seen).transpose(1, 2).flatten(2)
        out = from_windows(out, size, *x.shape[1:3])
        out = _rolled(out, [-shift for shift in shifts])
        return self.proj(out[:, :height, :width])


def _fill_up(x: Tensor, size: int) -> Tensor:
    """Append zeros to a map (B, H, W, C) up to whole windows."""
    down, right = ((size - side % size) % size for side in x.shape[1:3])
    return F.pad(x, (0, 0, 0, right, 0, down))


def _rolled(x: Tensor, shifts: Sequence[Tensor]) -> Tensor:
    """Shift a map (B, H, W, C) cyclically up and to the left."""
    for axis, shift in zip((1, 2), shifts, strict=True):
        length = x.shape[axis]
        x = x.index_select(axis, (torch.arange(length) + shift + length) % length)
    return x


_OPEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.AdaptiveAvgPool2d: _OpenPool,
    LightViT: _OpenLightViT,
    LightViTAttention: _OpenLightViTAttention,
    WindowAttention: _OpenWindowAttention,
}
