"""Convert an original checkpoint of one of our families into mmvitconv's layout.

mmvitconv convert fcvit fcvit_b12.pth.tar fcvit_s12_3rdparty_in1k.pth
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.version import __version__


def convert_file(family: str, source: str | Path, target: Path) -> str:
    """Convert a checkpoint file.

    Args:
        family: One of ``mmvitconv.weights.list_layouts()``.
        source: The original file or its address; it is read safely and never executed.
        target: The file to write: tensors and plain data only. Must not exist.

    Returns:
        The sha256 of the written file.

    Raises:
        UserError: ``target`` exists or cannot be written, or the source is unsafe, damaged,
            incomplete or of another family.
    """
    import torch

    from mmvitconv.weights import check_values, convert_state_dict, load_file
    from mmvitconv.weights.addresses import title_of

    if target.exists():
        raise UserError(f"{str(target)!r} exists already; give another name or delete it first")
    try:
        state_dict = convert_state_dict(load_file(source), family)
        check_values(state_dict)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if str(source) in text else f"{source}: {text}") from error
    state_dict = {key: value.contiguous().clone() for key, value in state_dict.items()}
    meta = {"family": family, "converted_from": title_of(source), "mmvitconv": __version__}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            torch.save({"meta": meta, "state_dict": state_dict}, file)
    except OSError as error:
        raise UserError(
            f"{str(target)!r} cannot be written ({error.strerror}); give another path"
        ) from error
    return hashlib.sha256(target.read_bytes()).hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "family", help="whose layout it is, e.g. fcvit; a wrong name shows them all"
    )
    parser.add_argument("source", help="the original authors' file, or its address")
    parser.add_argument("target", type=Path, help="the file to write")


def run(options: argparse.Namespace) -> None:
    """Convert the file and print its sha256."""
    digest = convert_file(options.family, options.source, options.target)
    print(f"{options.target}\nsha256 {digest}")
