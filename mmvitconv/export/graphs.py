"""The file formats: a module is traced, written, and the file run again."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvitconv.errors import UserError
from mmvitconv.runtime import onnxruntime, openvino
from mmvitconv.runtime.tracing import OPSET, quiet, write_onnx

__all__ = [
    "FORMATS",
    "GRAPHS",
    "TookTooLongError",
    "load_runner",
    "quiet",
    "read_opset",
    "require_packages",
    "time_limit",
    "write_graph",
]

FORMATS = ("torch", "onnx", "openvino", "torchscript")
GRAPHS = ("onnx", "openvino")
_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}

Runner = Callable[..., Sequence[Tensor]]
Axes = Mapping[str, Sequence[int]]


def require_packages(format: str) -> None:
    """Raise a UserError when a format cannot be written with what is installed."""
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is unknown; give one of {', '.join(FORMATS)}")
    for package in _PACKAGES.get(format, ()):
        try:
            __import__(package)
        except ImportError as error:
            raise UserError(
                f"--format {format} needs {package}; run: pip install 'mmvitconv[export]'"
            ) from error


def write_graph(
    module: nn.Module,
    format: str,
    path: Path,
    example: Sequence[Tensor],
    axes: Axes,
    names: tuple[Sequence[str], Sequence[str]],
    metadata: Mapping[str, Any],
    opset: int | None = None,
) -> None:
    """Trace a module and write it.

    Args:
        module: In evaluation mode; takes tensors.
        format: One of :data:`FORMATS`.
        path: File to write; of OpenVINO, ``.xml``, beside which ``.bin`` appears.
        example: What it is traced with.
        axes: What may differ from it: open axes of inputs and outputs, by name.
        names: Of the inputs, and of the outputs.
        metadata: Stored in ONNX and OpenVINO files.
        opset: Of ONNX files; None for the newest that the exporter has.

    Raises:
        Exception: Whatever tracers and exporters raise when they cannot express the module.
    """
    inputs, outputs = names
    if format in GRAPHS:
        file = path.with_suffix(".onnx")
        named = {name: {i: f"{name}_{i}" for i in axes.get(name, ())} for name in inputs + outputs}
        write_onnx(module, file, example, inputs, outputs, named, opset or OPSET)
        store = _store_onnx if format == "onnx" else _store_openvino
        store(file, path, {key: _as_text(value) for key, value in metadata.items()})
        return
    with quiet(), torch.no_grad():
        if format == "torchscript":
            traced = torch.jit.trace(module, tuple(example), check_trace=False, strict=False)
            traced.save(str(path))
            return
        dim = torch.export.Dim.DYNAMIC
        shapes = tuple(dict.fromkeys(axes.get(name, ()), dim) for name in inputs)
        program = torch.export.export(module, tuple(example), dynamic_shapes=shapes)
        torch.export.save(program, path)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _store_onnx(file: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Add metadata to an ONNX file."""
    import onnx

    model = onnx.load(file)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    file.unlink()
    onnx.save(model, path)


def _store_openvino(file: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Turn an ONNX file into OpenVINO's files."""
    import openvino

    model = openvino.Core().read_model(str(file))
    for key, value in metadata.items():
        model.set_rt_info(value, ["mmvitconv", key])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    del model  # it may look at the file
    file.unlink()


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
        threads: Threads of the runtime; None for as many as torch takes.

    Returns:
        A function from inputs to outputs.
    """
    if format in GRAPHS:
        engine = onnxruntime if format == "onnx" else openvino
        run_all = engine.load(path, "fp32", threads or torch.get_num_threads())
        return lambda *inputs: run_all(inputs)
    with quiet():
        model = torch.export.load(path).module() if format == "torch" else torch.jit.load(str(path))

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        with quiet(), torch.no_grad():
            outs = model(*inputs)
        return (outs,) if isinstance(outs, Tensor) else tuple(outs)

    return run


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
