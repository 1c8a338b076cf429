"""Does a checkpoint belong to a model? Nothing is loaded partially in silence."""

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError, describe_mismatch, shorten
from mmvitconv.weights.convert import convert_state_dict, find_layout, unwrap
from mmvitconv.weights.files import load_file

_COMPARES = ContextVar("compares", default=False)


def is_comparing() -> bool:
    """Return whether a model's entries are read to compare them with a checkpoint's."""
    return _COMPARES.get()


def own_entries(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's entries as ``state_dict()`` does, also before any weights are loaded.

    Args:
        model: Any model; one of ours may still wait for what its ``init_cfg`` names.
    """
    token = _COMPARES.set(True)
    try:
        return model.state_dict()
    finally:
        _COMPARES.reset(token)


def adapt_checkpoint(checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Bring a checkpoint's weights into the layout of a model.

    Args:
        checkpoint: What :func:`load_file` gave: ours, mmengine's, or the original authors' file of
            any family.
        model: A classifier, detector or segmentor with a ``backbone``, or a bare backbone.

    Returns:
        The checkpoint with the weights under ``state_dict``; its other entries are kept.

    Raises:
        CheckpointError: It holds no weights, or the original layout is incomplete.
    """
    state_dict = unwrap(checkpoint)
    layout = _original_layout(state_dict, model)
    if layout is not None:
        state_dict = convert_state_dict(state_dict, layout)
    if not hasattr(model, "backbone"):
        state_dict = _backbone_part(state_dict)
    elif set(state_dict) & set(own := own_entries(model.backbone)) and all(
        key in own or _is_optional(model.backbone, key) for key in state_dict
    ):  # a bare backbone's file, for its place in the whole model
        state_dict = {f"backbone.{key}": value for key, value in state_dict.items()}
    others = {} if checkpoint.get("state_dict") is None else dict(checkpoint)
    if isinstance(others.get("meta"), Mapping):
        # MMEngine runs this text as a config when it resumes
        others["meta"] = {k: v for k, v in others["meta"].items() if k != "config"}
    return {**others, "state_dict": state_dict}


def check_match(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    scope: Literal["all", "backbone"] = "all",
    source: str = "",
) -> None:
    """Make sure that weights fit a model.

    Args:
        state_dict: Weights in the model's own layout (see :func:`adapt_checkpoint`).
        model: The model that is to load them.
        scope: ``'all'`` compares every key. ``'backbone'`` compares what lies below ``backbone.``
            and lets necks and heads differ, as for fine-tuning.
        source: Where the weights come from, for the backbone's own check.

    Raises:
        CheckpointError: Keys are missing or unexpected, shapes differ, values are no numbers of the
            needed kind or not finite, or the backbone refuses the weights; what is wrong is listed.
    """
    whole, weights = model, state_dict
    backbone = getattr(model, "backbone", None)
    if scope == "backbone" and backbone is not None:
        part = {k: v for k, v in state_dict.items() if k.startswith("backbone.")}
        state_dict = {k.removeprefix("backbone."): v for k, v in part.items()}
        model, prefix = backbone, "backbone."
    else:
        prefix = ""
    own = own_entries(model)
    missing = [prefix + key for key in own if key not in state_dict]
    unexpected = [prefix + key for key in state_dict if key not in own]
    if scope == "backbone":
        missing = [key for key in missing if not _is_optional(model, key.removeprefix(prefix))]
        unexpected = [
            key for key in unexpected if not _is_optional(model, key.removeprefix(prefix))
        ]
    name = type(model).__name__
    if missing or unexpected:
        raise CheckpointError(
            describe_mismatch(missing, unexpected, f"the checkpoint does not belong to this {name}")
        )
    shapes = [
        f"{prefix}{key} is {tuple(state_dict[key].shape)} in the file, {tuple(own[key].shape)} here"
        for key in own
        if key in state_dict
        and own[key].shape != state_dict[key].shape
        and not _accepts_shape(model, key, state_dict[key].shape, scope == "backbone")
    ]
    if shapes:
        more = f"; and {len(shapes) - 5} more" if len(shapes) > 5 else ""
        raise CheckpointError(
            f"the checkpoint is of another size than this {name}: {'; '.join(shapes[:5])}{more}"
        )
    check_values(weights, whole)
    backbone = model if backbone is None else backbone
    if hasattr(backbone, "check_weights"):
        # of 8 bits, which PyTorch does not compare
        part = {k: v.float() if _is_tiny(v) else v for k, v in _backbone_part(state_dict).items()}
        backbone.check_weights(part, source)


def check_values(state_dict: Mapping[str, Tensor], model: nn.Module | None = None) -> None:
    """Make sure that weights are numbers which a model can compute with.

    Args:
        state_dict: Weights by key.
        model: The model that is to load them: only entries that fit one of its own by name and
            shape are looked at, and may be infinite or NaN where the model has a buffer that is so
            by itself, such as an attention mask. None: all entries must be finite.

    Raises:
        CheckpointError: Entries are sparse, quantised or without values, have a dtype of another
            kind than the model's, or hold NaN, infinity or negative variances; they are listed.
    """
    own = state_dict if model is None else own_entries(model)
    chosen = {
        key: value
        for key, value in state_dict.items()
        if key in own
        and (
            own[key].shape == value.shape
            or (model is not None and _accepts_shape(model, key, value.shape, fine_tuning=True))
        )
    }
    unfit = {key: reason for key in chosen if (reason := _unfitness(chosen[key], own[key], key))}
    if unfit:
        shown = "; ".join(f"{key} is {reason}" for key, reason in list(unfit.items())[:3])
        more = f"; and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        raise CheckpointError(f"the checkpoint holds what cannot be loaded: {shown}{more}")
    buffers = {} if model is None else dict(model.named_buffers())
    broken = [
        key
        for key, value in chosen.items()
        if not _is_finite(value) and (key not in buffers or _is_finite(buffers[key]))
    ]
    if broken:
        raise CheckpointError(
            f"the checkpoint holds NaN or infinity in {len(broken)} of {len(chosen)} entries, so "
            f"its training went wrong: {shorten(broken, limit=5)}; take an earlier checkpoint"
        )
    negative = [
        key
        for key, value in chosen.items()
        if key.endswith("running_var") and not value.is_meta and bool((value.float() < 0).any())
    ]
    if negative:
        raise CheckpointError(
            f"the checkpoint holds negative variances, which no training gives: "
            f"{shorten(negative, limit=5)}; take another checkpoint"
        )


def _unfitness(given: Tensor, own: Tensor, key: str) -> str:
    """Why a tensor cannot be loaded, or nothing."""
    if given.layout != torch.strided or given.is_quantized:
        return "sparse or quantised"
    if given.is_meta and (given is own or not own.is_meta):
        return "without values (device 'meta')"
    name = str(given.dtype).removeprefix("torch.")
    if own is given:
        needs_float = key.endswith((".weight", ".bias"))
        return f"{name}, not floating point" if needs_float and not _is_float(given) else ""
    wanted = str(own.dtype).removeprefix("torch.")
    if given.is_complex() and not own.is_complex():
        return f"{name}, but {wanted} is needed"
    if (_is_float(own) or own.is_complex()) and not (_is_float(given) or given.is_complex()):
        return f"{name}, but {wanted} is needed"
    return ""


def _is_float(value: Tensor) -> bool:
    # 4 bits: two numbers share a byte, and nothing converts them
    return value.is_floating_point() and not str(value.dtype).startswith("torch.float4")


def _is_tiny(value: Tensor) -> bool:
    return value.is_floating_point() and value.element_size() == 1


def _is_finite(value: Tensor) -> bool:
    """Whether there is neither NaN nor infinity, by reading the values once and copying none."""
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not value.is_floating_point() or value.numel() == 0 or value.is_meta:
        return True
    if _is_tiny(value):  # nothing computes with them
        value = value.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(value.detach()))).all())


def load_backbone(backbone: nn.Module, filename: str, prefix: str | None = None) -> None:
    """Load pretrained weights into a backbone, all of them or none.

    Args:
        backbone: One of our backbones.
        filename: Our checkpoint (of a backbone, classifier, detector or segmentor) or the
            original authors' file as it is.
        prefix: Where the backbone's keys are in the file; None finds out.

    Raises:
        CheckpointError: The file is unsafe or damaged, or does not belong to this backbone.
    """
    checkpoint = load_file(filename, mmap=True)
    try:
        state_dict, layout = _read_backbone(checkpoint, prefix, backbone)
        check_match(state_dict, backbone, scope="backbone", source=filename)
    except CheckpointError as error:
        raise CheckpointError(f"{filename}: {error}") from error
    own = own_entries(backbone)
    backbone.load_state_dict({k: v for k, v in state_dict.items() if k in own}, strict=False)
    kept = [key for key in own if key not in state_dict]
    dropped = [key for key in state_dict if key not in own]
    print_log(
        f"{type(backbone).__name__}: loaded {len(own) - len(kept)} of {len(own)} entries "
        f"from {filename}"
        + (f" (layout: original {layout})" if layout else "")
        + (f"; not in the file, so as initialised: {', '.join(kept)}" if kept else "")
        + (f"; not needed here: {len(dropped)} entries" if dropped else ""),
        logger="current",
    )


def _original_layout(state_dict: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """The original layout of weights; None where a model of others has every key already."""
    if hasattr(getattr(model, "backbone", model), "is_optional_key"):
        return find_layout(state_dict)
    keys = set(state_dict) | {key.removeprefix("backbone.") for key in state_dict}
    return None if own_entries(model).keys() <= keys else find_layout(state_dict)


def _read_backbone(
    checkpoint: Mapping[str, Any], prefix: str | None, backbone: nn.Module
) -> tuple[dict[str, Tensor], str | None]:
    """The backbone's weights in its layout, and the original layout they were in."""
    state_dict = unwrap(checkpoint)
    layout = _original_layout(state_dict, backbone)
    if layout is not None:
        state_dict = convert_state_dict(state_dict, layout)
        prefix = "backbone."
    if not prefix:
        return _backbone_part(state_dict), layout
    prefix = prefix.rstrip(".") + "."
    part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if not part:
        raise CheckpointError(f"the checkpoint has no key below {prefix!r}")
    return part, layout


def _backbone_part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's keys of a whole model, or everything when there is no ``backbone.``."""
    part = {
        k.removeprefix("backbone."): v for k, v in state_dict.items() if k.startswith("backbone.")
    }
    return part or dict(state_dict)


def _is_optional(backbone: nn.Module, key: str) -> bool:
    is_optional_key = getattr(backbone, "is_optional_key", None)
    with suppress(ValueError, IndexError, AttributeError):  # a key with a word for a number
        return is_optional_key is not None and is_optional_key(key)
    return False


def _accepts_shape(model: nn.Module, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
    """Whether the backbone, bare or in a model, adapts to a checkpoint's entry of this shape."""
    backbone = getattr(model, "backbone", model)
    key = key if backbone is model else key.removeprefix("backbone.")
    accepts_shape = getattr(backbone, "accepts_shape", None)
    return accepts_shape is not None and accepts_shape(key, shape, fine_tuning)
