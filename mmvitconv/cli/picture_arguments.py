"""What the commands that draw pictures of models have in common."""

from __future__ import annotations

import argparse

MODEL_HELP = (
    "architecture as mmvitconv list shows it (FCViT:tiny), timm:NAME for one of timm's models, or "
    "a config, by its path or its name"
)


def picture_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options ``--out``, ``--seed`` and ``--device``.

    Args:
        name: Of the command; the default picture is called like it.
        description: What the command does.
    """
    parser = argparse.ArgumentParser(
        f"mmvitconv {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", default=f"{name}.png", help="picture to write (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of random weights and noise (default: %(default)s)"
    )
    parser.add_argument(
        "--device", help="such as cpu or cuda:1 (default: a GPU where there is one)"
    )
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a model, its weights, an image and its size."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--checkpoint", help="file with its weights (default: random weights)")
    parser.add_argument("--image", help="image file (default: a drawn sample image)")
    parser.add_argument(
        "--size",
        type=positive,
        nargs="+",
        metavar="SIDE",
        help="height and width to which the image is brought, or one number for a square (default: "
        "the model's usual size)",
    )


def positive(text: str) -> int:
    """A number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def square(parser: argparse.ArgumentParser, size: list[int] | None) -> tuple[int, int] | None:
    """Height and width from the values of ``--size``; three are a wrong command line."""
    if size is None:
        return None
    if len(size) > 2:
        parser.error(f"--size takes one or two numbers, got {len(size)}")
    return size[0], size[-1]
