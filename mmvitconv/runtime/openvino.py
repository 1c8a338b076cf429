"""Graphs run by OpenVINO on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["PRECISIONS", "load"]

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class _Stack(ctypes.Structure):
    """Linux' stack_t."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Give this thread the stack back on which its signal handlers run.

    OpenVINO replaces it while it compiles, by memory that it frees with the model: from then on any
    signal with a handler, such as Ctrl-C or the end of a data-loader worker, would crash.
    """
    if sys.platform != "linux":
        yield
        return
    exchange = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    exchange(None, ctypes.byref(before))
    try:
        yield
    finally:
        exchange(ctypes.byref(before), None)


def load(
    path: Path, precision: str, threads: int, cache: Path | None = None
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Compile a graph.

    Args:
        path: An ONNX file or OpenVINO's own (.xml).
        precision: One of ``PRECISIONS``; inputs and outputs are float32 in any case.
        threads: Of each call, at least 1.
        cache: Folder in which OpenVINO keeps what it compiled; None for no cache.

    Returns:
        A function from inputs to outputs, on the CPU, that any threads may call.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    with _signal_stack_kept():
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    idle: deque = deque()  # requests; a thread takes one or makes one

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            arrays = {i: x.detach().contiguous().numpy() for i, x in enumerate(inputs)}
            request.infer(arrays, share_inputs=True)
            # the request's own memory is written again by its next call
            return [torch.from_numpy(out.data.copy()) for out in request.output_tensors]
        finally:
            idle.append(request)

    return run
