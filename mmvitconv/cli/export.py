"""Write a model or a backbone as a file for deployment, checked against PyTorch.

mmvitconv export CONFIG_OR_ARCH [CHECKPOINT] --out FILE [--format onnx|openvino|torch|torchscript]

The file takes normalised images and gives logits (classifiers, segmentors), objects (detectors), or
feature maps. It is run on batches and sizes that it was not traced with and compared with the
model; see docs/export.md for what can be had.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from mmvitconv.cli.arguments import add_config_options, add_fold_argument

if TYPE_CHECKING:
    from mmvitconv.export import ExportReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="CONFIG_OR_ARCH", help="config, or a name of the list")
    parser.add_argument("checkpoint", nargs="?", help="weights (default: random ones)")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino", "torch", "torchscript"),
        default="onnx",
        help="torch is torch.export's, torchscript a trace (default: %(default)s)",
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="image in pixels (default: test size of the config; 224 224)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images (default: %(default)s)")
    parser.add_argument(
        "--dynamic",
        choices=("batch", "size", "both", "none"),
        help="what may differ later (default: as much as can be had)",
    )
    parser.add_argument("--opset", type=int, help="of ONNX, 18 to 20 (default: 20)")
    parser.add_argument(
        "--preprocess",
        action="store_true",
        help="take pixels, uint8 (B, H, W, 3) as OpenCV reads them, and normalise them in the file",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.0,
        help="least score of a detector's objects (default: the config's)",
    )
    parser.add_argument("--int8", action="store_true", help="linear layers in 8 bits (ONNX)")
    parser.add_argument(
        "--backbone-only", action="store_true", help="of a config, the backbone's feature maps"
    )
    add_config_options(parser)
    add_fold_argument(parser)


def print_report(report: ExportReport) -> None:
    """Print what was written.

    Args:
        report: From :func:`mmvitconv.export.export_model`.
    """
    for note in report.notes:
        print(f"note: {note}")
    for check in report.checks:
        print(f"checked {check}")
    kind = report.format if report.opset is None else f"{report.format}, opset {report.opset}"
    size = f", sides from {report.least_side} on" if report.least_side else ""
    print(f"dynamic: {report.dynamic}{size}")
    if report.int8 is not None:
        print(report.int8)
    print(f"written: {report.path} ({kind}, {report.path.stat().st_size / 1e6:.1f} MB)")


def run(options: argparse.Namespace) -> None:
    """Export the model and print what was written."""
    from mmvitconv.export import export_model

    own = ("program", "arguments", "source", "checkpoint", "shape", "no_fold")
    settings = {name: value for name, value in vars(options).items() if name not in own}
    shape = None if options.shape is None else tuple(options.shape)
    say = partial(print, flush=True)
    settings |= {"shape": shape, "fold": not options.no_fold, "say": say}
    print_report(export_model(options.source, options.checkpoint, **settings))
