"""Convert an original checkpoint of one of our families into mmvitconv's layout.

python tools/model_converters/convert_official.py fcvit fcvit_b12.pth.tar
fcvit_s12_3rdparty_in1k.pth
"""

import argparse
import hashlib
import sys
from pathlib import Path

import torch

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.version import __version__
from mmvitconv.weights import check_values, convert_state_dict, list_families, load_file


def convert_file(family: str, source: Path, target: Path) -> str:
    """Convert a checkpoint file.

    Args:
        family: One of ``list_families()``.
        source: The original file; it is read safely and never executed.
        target: The file to write: tensors and plain data only. Must not exist.

    Returns:
        The sha256 of the written file.

    Raises:
        UserError: ``target`` exists, or the source is unsafe, damaged, incomplete or of another
            family.
    """
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; give another name or delete it first")
    try:
        state_dict = convert_state_dict(load_file(source), family)
        check_values(state_dict)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if str(source) in text else f"{source}: {text}") from error
    state_dict = {key: value.contiguous().clone() for key, value in state_dict.items()}
    meta = {"family": family, "converted_from": source.name, "mmvitconv": __version__}
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": meta, "state_dict": state_dict}, target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", help=f"one of: {', '.join(list_families())}")
    parser.add_argument("source", type=Path, help="the original authors' file")
    parser.add_argument("target", type=Path, help="the file to write")
    args = parser.parse_args()
    try:
        digest = convert_file(args.family, args.source, args.target)
    except UserError as error:
        sys.exit(f"convert_official.py: error: {error}")
    print(f"{args.target}\nsha256 {digest}")


if __name__ == "__main__":
    main()
