"""Activations and norms from the field's config dicts, without importing mmcv."""

from collections.abc import Mapping
from typing import Any

from torch import nn

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
    "SiLU": nn.SiLU,
    "Hardswish": nn.Hardswish,
    "LeakyReLU": nn.LeakyReLU,
}
_NORMS: Mapping[str, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "BN2d": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}


def build_activation(act_cfg: Mapping[str, Any]) -> nn.Module:
    """Build an activation layer.

    Args:
        act_cfg: ``dict(type=NAME, **kwargs)``; ``type`` is one of GELU, ReLU, SiLU, Hardswish and
            LeakyReLU, in any case.

    Returns:
        The layer.

    Raises:
        ValueError: Unknown ``type``.
    """
    return _build(act_cfg, _ACTIVATIONS, "act_cfg")


def build_norm(norm_cfg: Mapping[str, Any], channels: int) -> nn.Module:
    """Build a batch norm.

    Args:
        norm_cfg: ``dict(type=NAME, **kwargs)``; ``type`` is BN or SyncBN, ``requires_grad=False``
            freezes its parameters.
        channels: Channels of the map.

    Returns:
        The layer.

    Raises:
        ValueError: Unknown ``type``.
    """
    norm_cfg = dict(norm_cfg)
    requires_grad = norm_cfg.pop("requires_grad", True)
    norm = _build(norm_cfg, _NORMS, "norm_cfg", channels)
    norm.requires_grad_(requires_grad)
    return norm


def _build(
    config: Mapping[str, Any], kinds: Mapping[str, type[nn.Module]], name: str, *args: Any
) -> nn.Module:
    config = dict(config)
    kind = config.pop("type", None)
    by_name = {known.lower(): layer for known, layer in kinds.items()}
    if str(kind).lower() not in by_name:
        raise ValueError(f"{name} has type {kind!r}; give one of {', '.join(kinds)}")
    return by_name[str(kind).lower()](*args, **config)
