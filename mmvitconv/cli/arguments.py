"""Arguments that several commands share, and the config that a command line describes."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.config import DictAction

from mmvitconv.engine.configuration import apply_options, load_config
from mmvitconv.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = [
    "MODEL_HELP",
    "OptionAction",
    "SidesAction",
    "add_config_arguments",
    "add_config_options",
    "add_debug_argument",
    "add_device_argument",
    "add_fold_argument",
    "add_image_arguments",
    "add_memory_argument",
    "add_picture_arguments",
    "add_pixels_argument",
    "add_runtime_arguments",
    "at_least",
    "loading_options",
    "parse_shape",
    "positive",
    "read_config",
]

MODEL_HELP = (
    "architecture as mmvitconv list shows it (FCViT:tiny), mmvitconv://NAME for published weights, "
    "timm:NAME for one of timm's models, or a config, by its path or its name"
)


class OptionAction(DictAction):
    """MMEngine's parser of ``KEY=VALUE`` pairs that also takes dicts and names what is no pair."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Parse the pairs and add them to earlier ones.

        Args:
            parser: Where a usage error is reported.
            namespace: Receives a dict of dotted keys and values.
            values: The arguments, each ``KEY=VALUE``.
            option_string: The option as given.
        """
        for pair in values:
            key, equals, _ = pair.partition("=")
            if not key or not equals:
                parser.error(f"{option_string} takes KEY=VALUE pairs, got {pair!r}")
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Parse one value; MMEngine's parser, which this one replaces, knows no dicts."""
        if "{" not in val and "dict(" not in val:
            return DictAction._parse_iterable(val)
        try:
            return ast.literal_eval(val)
        except (SyntaxError, ValueError) as error:
            raise UserError(
                f"--cfg-options: a value with dicts is written as in Python, "
                f"\"[{{'type': 'EMAHook'}}]\", got {val!r}"
            ) from error


class SidesAction(argparse.Action):
    """Height and width from one or two numbers: ``224`` and ``224 224`` are the same."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"nargs": "+", "metavar": "SIDE", "type": int, **settings})

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[int],
        option_string: str | None = None,
    ) -> None:
        """Store ``(height, width)``; three numbers are a wrong command line."""
        if len(values) > 2:
            parser.error(f"{option_string} takes one or two numbers, got {len(values)}")
        setattr(namespace, self.dest, (values[0], values[-1]))


def positive(text: str) -> int:
    """Return a number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse_shape(text: str) -> tuple[int, int]:
    """Return ``(800, 1280)`` for ``'800x1280'`` and ``(224, 224)`` for ``'224'``, for argparse."""
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if match is None or 0 in (sizes := [int(size) for size in match.groups() if size]):
        raise argparse.ArgumentTypeError(
            f"a shape must be HEIGHTxWIDTH, such as 800x1280, or 224, got {text!r}"
        )
    return sizes[0], sizes[-1]


def at_least(kind: type, least: float) -> Any:
    """Return the parser of numbers from a least one on, for argparse."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, got {text}")
        return value

    return number


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument ``config`` and the option ``--cfg-options``."""
    parser.add_argument(
        "config", help="a config file, or the name of a shipped one, e.g. maskrcnn_fcvit_s12_coco"
    )
    add_config_options(parser)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--cfg-options``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionAction,
        metavar="KEY=VALUE",
        help="change settings of the config, e.g. train_cfg.max_epochs=3 "
        "param_scheduler.0.end=100 model.backbone.out_indices='(2,3)'",
    )


def add_pixels_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--max-pixels``.

    Args:
        parser: The parser to extend.
    """
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=100_000_000,
        metavar="N",
        help="leave out images of more pixels, seen in their headers (default: %(default)s)",
    )


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``, which :func:`mmvitconv.cli.execute` reads."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")


def add_fold_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--no-fold``.

    Args:
        parser: The parser to extend.
    """
    parser.add_argument(
        "--no-fold",
        action="store_true",
        help="run the layers as they were trained; otherwise norms and scales are folded into "
        "their neighbours, which is exact and faster",
    )


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--runtime`` and ``--precision``.

    Args:
        parser: The parser to extend.
    """
    parser.add_argument(
        "--runtime",
        choices=("eager", "openvino", "onnxruntime", "inductor"),
        default="eager",
        help="what runs backbone, neck and heads; all but eager compile them first, which takes up "
        "to a minute, for OpenVINO and ONNX Runtime once per machine (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        default="fp32",
        help="bf16 is faster on CPUs that have it and less exact; not for onnxruntime; int8, for "
        "openvino, takes its ranges from images of the config's training data (default: "
        "%(default)s)",
    )


def add_memory_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--keep-memory``, which :func:`mmvitconv.cli.run` reads."""
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="keep freed memory for the next layer instead of handing it back to the system: large "
        "images are faster on CPUs, and the process stays at its peak of memory (Linux)",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")


def add_picture_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add ``--out``, ``--seed`` and ``--device``, which all commands that draw a picture have.

    Args:
        parser: The parser to extend.
        name: What the picture is called by default, without its suffix.
    """
    parser.add_argument(
        "--out", default=f"{name}.png", help="picture to write (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of random weights and noise (default: %(default)s)"
    )
    add_device_argument(parser)


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a model, its weights, an image and its size."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--checkpoint", help="file with its weights (default: random weights)")
    parser.add_argument("--image", help="image file (default: a drawn sample image)")
    parser.add_argument(
        "--size",
        action=SidesAction,
        type=positive,
        help="height and width to which the image is brought, or one number for a square (default: "
        "the model's usual size)",
    )


def loading_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return how a model and its image are loaded, as keywords of the pictures' loader."""
    return {
        "checkpoint": options.checkpoint,
        "seed": options.seed,
        "shape": options.size,
        "device": options.device,
    }


def read_config(options: argparse.Namespace, say: Callable[[str], None] | None = None) -> Config:
    """Load the config of a command line and merge ``--cfg-options`` into it.

    Args:
        options: With ``config`` and ``cfg_options``, see :func:`add_config_arguments`.
        say: Takes notes about options without effect, one line each; default: print to stderr.

    Returns:
        The config.

    Raises:
        UserError: The config or an option cannot work.
    """
    cfg = load_config(options.config)
    for note in apply_options(cfg, options.cfg_options):
        print(note, file=sys.stderr) if say is None else say(note)
    return cfg
