"""Graphs run by OpenVINO on the CPU."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch
from torch import Tensor

from mmvitconv.runtime.tracing import quiet

__all__ = ["FOLLOWS_SHAPES_AT_A_COST", "PRECISIONS", "load", "quantise"]

# What is not in 8 bits in a quantised graph is in float32.
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Open sizes keep some of its fusions and layouts away, and every call infers all shapes anew.
FOLLOWS_SHAPES_AT_A_COST = True


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


def _write(content: memoryview, file: Path) -> None:
    """Write a file whole, or not at all where there is no room."""
    draft = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
    with suppress(OSError):
        try:
            draft.write_bytes(content)
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)


def load(
    path: Path,
    precision: str,
    threads: int,
    kept: Path | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Compile a graph.

    Args:
        path: An ONNX file, or OpenVINO's own.
        precision: One of ``PRECISIONS``; inputs and outputs are float32 in any case.
        threads: Of each call, at least 1.
        kept: File of the compiled graph: read if it is there, else written; None for none.
        shapes: Of the only inputs that it will get; None for all that the file allows.

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
    compiled = None
    with _signal_stack_kept():
        if kept is not None:
            with suppress(OSError, RuntimeError):  # not there, or not whole
                compiled = core.import_model(kept.read_bytes(), "CPU", settings)
        if compiled is None:
            model = core.read_model(str(path))
            if shapes is not None:
                model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            compiled = core.compile_model(model, "CPU", settings)
            if kept is not None:
                _write(compiled.export_model().getbuffer(), kept)
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


def quantise(path: Path, out: Path, inputs: Sequence[Sequence[Tensor]]) -> None:
    """Write a graph whose layers compute in 8 bits, with ranges as they are in given calls.

    Args:
        path: An ONNX file.
        out: File to write, ``.xml``, beside which ``.bin`` appears.
        inputs: Of each call.

    Raises:
        Exception: Whatever NNCF raises when it cannot quantise the graph.
    """
    import openvino

    nncf = _import_nncf()
    calls = [{index: x.numpy() for index, x in enumerate(call)} for call in inputs]
    with quiet():  # it shows bars and logs to the standard output
        small = nncf.quantize(
            openvino.Core().read_model(str(path)),
            nncf.Dataset(calls),
            subset_size=len(calls),
            model_type=nncf.ModelType.TRANSFORMER,  # attention's matrix products, too
        )
        openvino.save_model(small, str(out), compress_to_fp16=False)


def _import_nncf() -> ModuleType:
    """Import NNCF without its telemetry and without its class for everybody's loggers."""
    before = logging.getLoggerClass()
    try:
        with patch.dict(os.environ, NNCF_CI="1"), quiet():
            return import_module("nncf")
    finally:
        logging.setLoggerClass(before)
