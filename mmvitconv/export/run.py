"""A model becomes a file that is known to give what the model gives."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mmvitconv.engine.runner import require_writable
from mmvitconv.errors import UserError
from mmvitconv.export.check import Check, compare, find_least_side, inputs_of
from mmvitconv.export.graphs import (
    GRAPHS,
    TookTooLongError,
    load_runner,
    read_opset,
    require_packages,
    time_limit,
    write_graph,
)
from mmvitconv.export.quantise import Quantised, compare_quantised, quantise
from mmvitconv.export.subject import Subject, load_subject
from mmvitconv.runtime import fold as fold_model
from mmvitconv.runtime.tracing import OPSET, TRACED_SHAPE
from mmvitconv.version import __version__

__all__ = ["DYNAMIC", "ExportReport", "export_model", "export_subject"]

DYNAMIC = ("batch", "size", "both", "none")
_LADDER = ("both", "batch", "none")  # what is tried when nothing was asked for
_DETECTOR_LADDER = ("size", "none")
_SUFFIXES = {"torch": ".pt2", "openvino": ".xml"}
_INPUTS = {
    "images": "float32 images (B, C, H, W)",
    "pixels": "uint8 images (B, H, W, 3), blue first as OpenCV reads them",
}
_NORM = ": (pixel - mean) / std, pixels from 0 to 255"
_WORDS = {"batch": "batch", "size": "image size", "both": "batch and image size", "none": "nothing"}
# Images that an 8-bit file is compared on.
_COMPARED = 16
# Seconds for a try that nobody asked for. Windows whose number follows the image give tracers
# expressions that they simplify for many minutes.
TIME_LIMIT = 120


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was checked."""

    path: Path
    format: str  # 'torch', 'onnx' or 'torchscript'
    dynamic: str  # 'batch', 'size', 'both' or 'none': what may differ between calls
    shape: tuple[int, int]  # height and width that were asked for, or the model's usual ones
    batch: int  # images in a call
    opset: int | None  # of an ONNX file
    least_side: int | None  # smallest sides that the file takes, where the size is dynamic
    checks: tuple[Check, ...]  # comparisons with the model in PyTorch
    metadata: Mapping[str, Any]  # what the file says about itself
    int8: Quantised | None = None  # how an 8-bit file differs from the one in float32
    notes: tuple[str, ...] = ()  # what was assumed or could not be had, one sentence each

    @property
    def difference(self) -> float:
        """Largest difference of any check, over the largest value of its output."""
        return max(check.relative for check in self.checks)


@dataclass
class _Request:
    """What the user asked for, checked."""

    format: str
    out: Path
    shape: tuple[int, int]
    batch: int
    dynamic: str | None
    opset: int | None
    int8: bool
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)


def export_model(
    source: str,
    checkpoint: str | Path | None = None,
    *,
    out: str | Path,
    format: str = "onnx",
    shape: tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: str | None = None,
    opset: int | None = None,
    int8: bool = False,
    backbone_only: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    fold: bool = True,
    preprocess: bool = False,
    score_threshold: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a model or a backbone, and check the file against PyTorch.

    The file takes normalised float32 images (B, C, H, W), and says in its metadata how they are
    made. Classifiers give logits (B, classes); segmentors logits at the image's size, (B, classes,
    H, W); backbones their feature maps, finest first. Detectors take one image and its ``size``
    before it was resized, and give boxes, labels, scores and masks in that size.

    Args:
        source: A config, or an architecture as ``mmvitconv list`` names it (its backbone).
        checkpoint: Weights; None for random ones.
        out: File to write; it appears when it passed the checks, and replaces an older one.
        format: ``'onnx'``, ``'openvino'`` (``out`` ends in ``.xml``, the weights are beside it),
            ``'torch'`` (torch.export) or ``'torchscript'`` (a trace). Detectors: the first two.
        shape: Height and width in pixels; None for the model's usual ones.
        batch: Images in a call.
        dynamic: What may differ from ``shape`` and ``batch`` later: ``'batch'``, ``'size'``,
            ``'both'`` or ``'none'``. None for as much as can be had (of torch's own formats within
            two minutes each).
        opset: Version of the ONNX operators, 18 to 20; None for 20.
        int8: Write linear layers in 8 bits (ONNX only).
        backbone_only: Of a config, export the backbone alone.
        cfg_options: Changes of the config, dotted keys and their values.
        fold: Write our backbones with norms and scales folded into the layers beside them. The file
            is compared with the model as it was trained.
        preprocess: Let the file take pixels (B, H, W, 3), uint8, blue first as OpenCV reads them,
            and normalise them itself.
        score_threshold: Least score of a detector's objects, besides the config's own threshold.
        say: Called with a line for each step.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        UserError: Arguments that cannot work, weights that do not belong to the model, or a file
            that could not be made as asked or does not give what the model gives.
    """
    out = Path(out)
    _check_arguments(format, shape, batch, dynamic, opset, int8)
    if format == "openvino" and out.suffix != ".xml":
        raise UserError(f"--format openvino writes a file .xml, got --out {str(out)!r}")
    if out.is_dir():
        raise UserError(f"--out {str(out)!r} is a folder; give a file, such as model.onnx")
    require_writable(out.parent, "--out")
    say(f"building {source}")
    subject = load_subject(
        source,
        checkpoint,
        backbone_only,
        cfg_options,
        preprocess=preprocess,
        score_threshold=score_threshold,
    )
    if not subject.has_batch:
        _check_detector(format, batch, dynamic, int8, subject.metadata["source"])
    if fold:
        subject.traced = fold_model(subject.module)
    return export_subject(subject, out, format, shape, batch, dynamic, opset, int8=int8, say=say)


def export_subject(
    subject: Subject,
    out: Path,
    format: str = "onnx",
    shape: tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: str | None = None,
    opset: int | None = None,
    *,
    int8: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a module that was built already; see :func:`export_model`."""
    shape = subject.shape if shape is None else shape
    _check_runs(subject, shape, batch)
    request = _Request(format, out, shape, batch, dynamic, opset, int8, say, list(subject.notes))
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        # What torch and OpenVINO want.
        file = Path(scratch) / f"graph{_SUFFIXES.get(format, '')}"
        report = _first_that_works(subject, request, file)
        if int8:
            say("quantising")
            small = Path(scratch) / "int8.onnx"
            quantise(file, small)
            count = batch if report.dynamic in ("size", "none") else _COMPARED
            generator = torch.Generator().manual_seed(1)
            images = torch.randn(count, subject.channels, *shape, generator=generator)
            report = replace(report, int8=compare_quantised(file, small, images))
            file = small
        if format == "openvino":
            os.replace(file.with_suffix(".bin"), out.with_suffix(".bin"))
        os.replace(file, out)
        if format != "onnx":  # these files have no room for metadata
            beside = Path(scratch) / "metadata"
            text = json.dumps(report.metadata, indent=2, ensure_ascii=False)
            beside.write_text(f"{text}\n", "utf-8")
            os.replace(beside, out.with_name(f"{out.name}.json"))
    return report


def _first_that_works(subject: Subject, request: _Request, file: Path) -> ExportReport:
    """Write the file with as much freedom as was asked for, or as can be had."""
    asked = request.dynamic
    ladder = _LADDER if subject.has_batch else _DETECTOR_LADDER
    for dynamic in ladder if asked is None else (asked,):
        checks: tuple[Check, ...] = ()
        try:
            # what was asked for explicitly may take its time
            is_bounded = asked is None and dynamic != "none" and request.format not in GRAPHS
            with time_limit(TIME_LIMIT if is_bounded else None):
                report = _export_once(subject, request, file, dynamic)
        except UserError:
            raise
        except TookTooLongError:
            reason = f"it takes longer than {TIME_LIMIT} s"
        except Exception as error:  # tracers raise whatever they stumble over
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            checks = report.checks
            failed = [check for check in checks if not check.passed]
            if not failed:
                return report
            reason = f"{len(failed)} of {len(checks)} checks failed, {failed[0]}"
        freedom = "a file of fixed batch and size" if dynamic == "none" else (
            f"a dynamic {_WORDS[dynamic]}"
        )  # fmt: skip
        sentence = f"{freedom} cannot be had as {request.format}: {reason}"
        if dynamic == "none" or asked is not None:
            raise UserError(sentence + _keep(file, request.out, checks) + _advice(asked))
        request.notes.append(sentence)
        request.say(sentence)
    raise AssertionError("the last try returns or raises")


def _export_once(subject: Subject, request: _Request, file: Path, dynamic: str) -> ExportReport:
    is_sized = dynamic in ("size", "both")
    count = 2 if dynamic in ("batch", "both") else request.batch
    shape = TRACED_SHAPE if is_sized else request.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        example = subject.make(count, *shape)
    file.unlink(missing_ok=True)
    request.say(f"exporting to {request.format}, dynamic: {_WORDS[dynamic]}")
    metadata = {
        **subject.metadata,
        "input": _INPUTS[subject.inputs[0]]
        + (_NORM if "mean" in subject.metadata and "images" in subject.inputs else ""),
        "shape": list(request.shape),
        "batch": request.batch,
        "dynamic": dynamic,
        "outputs": list(subject.outputs),
        "mmvitconv": __version__,
        "torch": torch.__version__,
    }
    write_graph(
        subject.module if subject.traced is None else subject.traced,
        request.format,
        file,
        example,
        subject.axes(dynamic),
        (subject.inputs, subject.outputs),
        metadata,
        request.opset,
    )
    runner = load_runner(file, request.format)
    inputs = inputs_of(request.batch, request.shape, dynamic)
    request.say(f"checking {len(inputs)} inputs against PyTorch")
    checks = tuple(compare(runner, subject.module, subject.make, *each) for each in inputs)
    least = None
    if is_sized and all(check.passed for check in checks):
        least = find_least_side(runner, subject.module, subject.make)
        metadata["least_side"] = least
    opset = read_opset(file) if request.format == "onnx" else None
    return ExportReport(
        request.out,
        request.format,
        dynamic,
        request.shape,
        request.batch,
        opset,
        least,
        checks,
        metadata,
        notes=tuple(request.notes),
    )


def _check_arguments(
    format: str,
    shape: tuple[int, int] | None,
    batch: int,
    dynamic: str | None,
    opset: int | None,
    int8: bool,
) -> None:
    """Raise a UserError before anything is built."""
    if dynamic is not None and dynamic not in DYNAMIC:
        raise UserError(f"--dynamic {dynamic!r} is unknown; give one of {', '.join(DYNAMIC)}")
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise UserError(f"--shape takes a height and a width in pixels, both positive, got {shape}")
    if batch < 1:
        raise UserError(f"--batch must be a positive integer, got {batch}")
    if format != "onnx" and (int8 or opset is not None):
        option = "--int8" if int8 else "--opset"
        raise UserError(f"{option} is for --format onnx, got --format {format}")
    require_packages(format)
    if opset is not None and not 18 <= opset <= OPSET:
        raise UserError(f"--opset must be 18 to {OPSET}, or left out, got {opset}")


def _check_detector(format: str, batch: int, dynamic: str | None, int8: bool, source: str) -> None:
    """Raise a UserError for what cannot be had of a detector."""
    advice = f"; --backbone-only exports the backbone of {source}"
    if format not in GRAPHS:
        raise UserError(
            "post-processing of detectors (proposals, non-maximum suppression) is exported with "
            f"--format onnx or openvino only, got {format}{advice}"
        )
    if batch != 1 or int8 or dynamic in ("batch", "both"):
        raise UserError(
            "a detector is exported for one image at a time, in float32, with --dynamic size or "
            f"none{advice}"
        )


def _check_runs(subject: Subject, shape: tuple[int, int], batch: int) -> None:
    """Raise a UserError when the model itself does not take the input."""
    try:
        with torch.no_grad():
            subject.module(*subject.make(batch, *shape))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the model does not take --batch {batch} --shape {shape[0]} {shape[1]}: {error}"
        ) from error
    except (TypeError, AttributeError) as error:  # a head that wants more than feature maps
        raise UserError(
            f"the model of {subject.metadata['source']} is not exported whole, its head takes more "
            f"than feature maps ({error}); --backbone-only exports its backbone"
        ) from error


def _keep(file: Path, out: Path, checks: tuple[Check, ...]) -> str:
    """Keep a file that failed its checks, under another name; returns what to say."""
    if not checks:
        return ""
    kept = out.with_name(f"{out.name}.failed")
    os.replace(file, kept)
    numbers = "; ".join(map(str, checks))
    return f" (all checks: {numbers}; the file is kept as {kept})"


def _advice(asked: str | None) -> str:
    if asked in ("size", "both"):
        return "; --dynamic batch keeps the size fixed, without --dynamic the tool decides"
    return "; --format has others" if asked != "batch" else "; --dynamic none fixes it"
