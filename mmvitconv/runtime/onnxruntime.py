"""Graphs run by ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["FOLLOWS_SHAPES_AT_A_COST", "PRECISIONS", "load"]

PRECISIONS = ("fp32",)
FOLLOWS_SHAPES_AT_A_COST = False


def load(
    path: Path,
    precision: str = "fp32",
    threads: int | None = None,
    kept: Path | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Open a graph.

    Args:
        path: An ONNX file.
        precision: ``'fp32'``.
        threads: Of each call, at least 1; None for all cores.
        kept: Without effect: a file is optimised while it is opened, in a second.
        shapes: Without effect.

    Returns:
        A function from inputs to outputs, on the CPU, that any threads may call.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised all the same
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = [x.detach().contiguous().numpy() for x in inputs]
        outs = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(out) for out in outs]

    return run
