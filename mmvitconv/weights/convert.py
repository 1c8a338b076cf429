"""Original checkpoint layouts -> ours, for every family."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mmvitconv.errors import CheckpointError, UserError, shorten
from mmvitconv.weights.families import (
    convmixer,
    deit,
    fcvit,
    lightvit,
    parc_convnext,
    parc_mobilenetv2,
    parc_net,
    parc_resnet,
    swin,
)

_LAYOUTS = {
    "convmixer": convmixer,
    "deit": deit,
    "fcvit": fcvit,
    "lightvit": lightvit,
    "parc_convnext": parc_convnext,
    "parc_mobilenetv2": parc_mobilenetv2,
    "parc_net": parc_net,
    "parc_resnet": parc_resnet,
    "swin": swin,
}
# Families whose weights come in the layout of another network.
_BORROWED = {"dynconvvit": "deit", "dynconvswin": "swin"}

# Where training scripts put the weights, in the order in which the original loaders look.
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema", "ema_model")
# Parts of a detector or segmentor beside the backbone; their layout did not change since mmdet 2 /
# mmseg 0.
_OTHER_PARTS = ("neck.", "rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "decode_head.",
                "auxiliary_head.")  # fmt: skip


def list_layouts() -> list[str]:
    """Return the layouts that :func:`convert_state_dict` knows."""
    return sorted(_LAYOUTS)


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the bare state dict of a checkpoint.

    Args:
        checkpoint: A state dict, or a dict with one under ``state_dict``, ``model``,
            ``state_dict_ema``, ``model_ema`` or ``ema_model`` (looked for in this order). A leading
            ``module.`` (DistributedDataParallel) on every key is dropped, and so is ``_orig_mod.``
            (torch.compile) wherever it stands, as of a compiled backbone.

    Returns:
        Tensors by key.

    Raises:
        CheckpointError: There is no state dict, or it holds something that is no tensor.
    """
    state_dict = next(
        (checkpoint[name] for name in _WRAPPERS if isinstance(checkpoint.get(name), Mapping)),
        checkpoint,
    )
    if not state_dict:
        raise CheckpointError("the checkpoint holds no weights: its state dict is empty")
    nameless = [key for key in state_dict if not _is_name(key)]
    if nameless:
        raise CheckpointError(
            f"the checkpoint holds no state dict: {repr(nameless[0])[:60]} is no name of a tensor; "
            f"expected tensors by key, bare or under one of {', '.join(_WRAPPERS)}"
        )
    others = [key for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"the checkpoint holds no state dict: {shorten(others)} are not tensors; "
            f"expected tensors by key, bare or under one of {', '.join(_WRAPPERS)}"
        )
    state_dict = {re.sub(r"(^|(?<=\.))_orig_mod\.", "", key): v for key, v in state_dict.items()}
    if all(key.startswith("module.") for key in state_dict):
        state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    return state_dict


def _is_name(key: Any) -> bool:
    """Whether a key could be one of a module's; the names that a message shows are such."""
    return isinstance(key, str) and len(key) < 500 and key.isprintable()


def find_layout(keys: Iterable[str]) -> str | None:
    """Return the ORIGINAL layout in which these keys are, or None."""
    keys = [key.removeprefix("backbone.") for key in keys]
    return next((name for name, family in _LAYOUTS.items() if family.is_original(keys)), None)


def convert_state_dict(state_dict: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """Turn a checkpoint in a family's original layout into ours.

    Args:
        state_dict: Original weights of a classifier, a dense backbone, or a whole detector or
            segmentor: bare or wrapped (see :func:`unwrap`), with or without ``module.`` and
            ``backbone.`` prefixes.
        family: One of :func:`list_layouts`, or a registered backbone in any spelling:
            ``'ParCNet'``, ``'DynConvSwin'``.

    Returns:
        ``backbone.*``, for a classifier ``head.*`` (the layout of an mmpretrain
        ``ImageClassifier``), and the other parts of a detector or segmentor as they were.

    Raises:
        UserError: Unknown family.
        CheckpointError: Keys are left over or missing; they are listed.
    """
    plain = re.sub(r"[^a-z0-9]", "", family.lower())
    layouts = {name.replace("_", ""): name for name in list_layouts()}
    layout = layouts.get(_BORROWED.get(plain, plain))
    if layout is None:
        raise UserError(f"unknown family {family!r}; known: {', '.join(list_layouts())}")
    state_dict = unwrap(state_dict)
    others: dict[str, Tensor] = {}
    if any(key.startswith("backbone.") for key in state_dict):
        others = {k: v for k, v in state_dict.items() if k.startswith(_OTHER_PARTS)}
        state_dict = {
            k.removeprefix("backbone."): v for k, v in state_dict.items() if k not in others
        }
    # converters go through all layers up to the highest number
    beyond = [key for key in state_dict if re.search(r"\d{5}", key)]
    if beyond:
        raise CheckpointError(f"no {layout} has so many layers: {shorten(beyond, limit=3)}")
    try:
        return {**_LAYOUTS[layout].convert(state_dict), **others}
    except CheckpointError:
        raise
    except Exception as error:  # a converter relies on the numbers and shapes of its layout
        raise CheckpointError(
            f"these weights look like {layout}'s, but their names or shapes do not go together "
            f"({' '.join(str(error).split())[:120]})"
        ) from error
