"""The three file formats: a module is traced, written, and the file run again."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from mmvitconv.errors import UserError

__all__ = [
    "FORMATS",
    "TookTooLongError",
    "load_runner",
    "quiet",
    "read_opset",
    "require_packages",
    "time_limit",
    "write_graph",
]

FORMATS = ("torch", "onnx", "torchscript")
# Kernels of ParC follow the map. Where a map has just the stored length, as at 224 x 224, a tracer
# would record that nothing is resized; no stored length belongs to these primes.
TRACED_SHAPE = (307, 397)
# Circular convolutions: the one exact form without complex numbers, whatever the length.
_ALGORITHM = {"MMVITCONV_CIRCULAR_CONV": "concat"}
_AXES = {"batch": (0,), "size": (2, 3), "both": (0, 2, 3), "none": ()}

Runner = Callable[[Tensor], Sequence[Tensor]]


def require_packages(format: str) -> None:
    """Raise a UserError when a format cannot be written with what is installed."""
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is unknown; give one of {', '.join(FORMATS)}")
    if format != "onnx":
        return
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise UserError(
                f"--format onnx needs {package}; run: pip install 'mmvitconv[export]'"
            ) from error


def write_graph(
    module: nn.Module,
    format: str,
    path: Path,
    example: Tensor,
    dynamic: str,
    outputs: Sequence[str],
    metadata: Mapping[str, Any],
    opset: int | None = None,
    simplify: bool = False,
) -> None:
    """Trace a module and write it.

    Args:
        module: In evaluation mode; takes one tensor.
        format: One of :data:`FORMATS`.
        path: File to write.
        example: What it is traced with.
        dynamic: ``'batch'``, ``'size'``, ``'both'`` or ``'none'``: what may differ from it.
        outputs: Names of the outputs.
        metadata: Stored in ONNX files.
        opset: Of ONNX files; None for the exporter's own.
        simplify: Let the exporter simplify the ONNX graph, which is slow. onnxruntime does so when
            it loads a file, but its quantiser needs it done.

    Raises:
        Exception: Whatever tracers and exporters raise when they cannot express the module.
    """
    with quiet(), torch.no_grad(), patch.dict(os.environ, _ALGORITHM):
        if format == "torchscript":
            torch.jit.trace(module, example, check_trace=False, strict=False).save(str(path))
            return
        axes = dict.fromkeys(_AXES[dynamic], torch.export.Dim.DYNAMIC)
        program = torch.export.export(module, (example,), dynamic_shapes=(axes,))
        if format == "torch":
            torch.export.save(program, path)
            return
        graph = torch.onnx.export(
            program,
            dynamo=True,
            optimize=simplify,
            verbose=False,
            opset_version=opset,
            input_names=["images"],
            output_names=list(outputs),
        )
        for key, value in metadata.items():
            text = value if isinstance(value, str) else json.dumps(value)
            graph.model.metadata_props[key] = text
        graph.save(path, external_data=False)
    written = read_opset(path)
    if opset is not None and written != opset:
        raise UserError(f"--opset {opset} cannot be had for this model, only {written}")


def read_opset(path: Path) -> int:
    """Return the version of the operators that an ONNX file uses."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return next(entry.version for entry in model.opset_import if not entry.domain)


def load_runner(path: Path, format: str, threads: int | None = None) -> Runner:
    """Open a file that was written, as somebody who deploys it would.

    Args:
        path: The file.
        format: One of :data:`FORMATS`.
        threads: Threads of onnxruntime; None for all cores.

    Returns:
        A function from images to outputs.
    """
    if format == "onnx":
        return _load_onnx(path, threads)
    with quiet():
        model = torch.export.load(path).module() if format == "torch" else torch.jit.load(str(path))

    def run(x: Tensor) -> Sequence[Tensor]:
        with quiet(), torch.no_grad():
            outs = model(x)
        return (outs,) if isinstance(outs, Tensor) else tuple(outs)

    return run


def _load_onnx(path: Path, threads: int | None) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised all the same
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (node.name for node in session.get_inputs())
    return lambda x: [torch.from_numpy(out) for out in session.run(None, {name: x.numpy()})]


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


class TookTooLongError(BaseException):
    """Time is up; no ``Exception``, since tracers catch those."""


@contextmanager
def time_limit(seconds: int | None) -> Iterator[None]:
    """Stop what takes too long, where that is possible: in the main thread, not on Windows.

    Args:
        seconds: None for no limit.

    Raises:
        TookTooLongError: Time was up.
    """

    def stop(*_: object) -> None:
        raise TookTooLongError

    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
