"""The three public ConvMixer layouts (docs/specs/convmixer.md#3-state-dict) -> ours.

==========================  ============================  =========================
original                    ours                          note
==========================  ============================  =========================
0.*, 2.*                    backbone.stem.{0,2}.*         official ``Sequential``
{3+i}.*                     backbone.blocks.{i}.*         official, depth n
{n+5}.*                     head.fc.*                     official
stem.*, blocks.*            backbone.*                    timm
head.*                      head.fc.*                     timm
stem.*, stages.*            backbone.{stem,blocks}.*      mmpretrain
head.fc.*                   head.fc.*                     mmpretrain
==========================  ============================  =========================
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mmvitconv.weights.families.names import LAYER, NORM, count, has, rename

_BLOCK = [
    *(f"{layer}.{name}" for layer in ("0.fn.0", "1") for name in LAYER),
    *(f"{layer}.{name}" for layer in ("0.fn.2", "3") for name in NORM),
]
_STEM = [*(f"stem.0.{name}" for name in LAYER), *(f"stem.2.{name}" for name in NORM)]


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are the official ones, mmpretrain's, or those of timm's classifier.

    timm's without a classifier are ours.
    """
    keys = set(keys)
    return (
        {"0.weight", "3.0.fn.0.weight"} <= keys
        or {"stem.0.weight", "stages.0.0.fn.0.weight"} <= keys
        or {"stem.0.weight", "blocks.0.0.fn.0.weight", "head.weight"} <= keys
    )


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of any of the layouts."""
    renamed = {_rename(key, state_dict): value for key, value in state_dict.items()}
    depth = count(renamed, r"blocks\.(\d+)\.")
    expected = [*_STEM, *(f"blocks.{i}.{name}" for i in range(depth) for name in _BLOCK)]
    names = {key: f"backbone.{key}" for key in expected}
    if has(renamed, "head."):
        names |= {f"head.fc.{name}": f"head.fc.{name}" for name in LAYER}
    return rename(renamed, names, "ConvMixer")


def arch_from_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the sizes off the tensors.

    Args:
        state_dict: What :func:`convert` gave.

    Returns:
        ``ConvMixer(arch=...)`` without the activation, which no tensor has.
    """
    blocks = {key.split(".")[2] for key in state_dict if key.startswith("backbone.blocks.")}
    kernel = state_dict["backbone.blocks.0.0.fn.0.weight"]
    return {
        "embed_dims": kernel.shape[0],
        "depth": len(blocks),
        "kernel_size": kernel.shape[-1],
        "patch_size": state_dict["backbone.stem.0.weight"].shape[-1],
    }


def _rename(key: str, state_dict: Mapping[str, Tensor]) -> str:
    """Ours without ``backbone.``; a key that belongs to no layout stays as it is."""
    part, _, rest = key.partition(".")
    if part.isdigit():
        index, last = int(part), max(int(k.partition(".")[0]) for k in state_dict if k[0].isdigit())
        if index < 3:
            return f"stem.{key}"
        return f"head.fc.{rest}" if index == last and "." not in rest else (
            f"blocks.{index - 3}.{rest}")  # fmt: skip
    if part == "stages":
        return f"blocks.{rest}"
    if part == "head" and not rest.startswith("fc."):
        return f"head.fc.{rest}"
    return key
