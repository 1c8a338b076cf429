"""Mixers by name: the rows of the side-by-side table that this package has.

See docs/specs/dynconv.md#6-mixer.
"""

import inspect
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mmvitconv.models.layers.mixers.base import Mixer, check_choice
from mmvitconv.models.layers.mixers.dwnet import PositionMixer, SampleMixer, StaticMixer
from mmvitconv.models.layers.mixers.pairwise import (
    Attention,
    DepthwiseHeads,
    GlobalAttention,
    NeighbourhoodAttention,
    PairwiseMixer,
    TokenNormAttention,
    WindowAttention,
)
from mmvitconv.models.layers.mixers.pooled import PooledMixer
from mmvitconv.ops.dynamic_attention import Activation

__all__ = ["MIXERS", "DynamicConvMixer", "make_mixer"]


# Classes of mixers and their options, with those of their Activation.
MIXERS: Mapping[str, tuple[type[Mixer], Mapping[str, Any]]] = MappingProxyType(
    {
        "deit": (GlobalAttention, {}),
        "swin": (WindowAttention, {"bias": "rel_table"}),
        "relu_n": (GlobalAttention, {"act": "relu"}),
        "ln_relu": (GlobalAttention, {"act": "relu", "norm": "ln_key"}),
        "relu_ln": (GlobalAttention, {"act": "relu", "norm": "ln_key", "norm_pos": "post"}),
        "rela": (GlobalAttention, {"act": "relu", "out_norm": "rms", "count_power": 0}),
        "sima": (TokenNormAttention, {"norm": "l1_token"}),
        "natt": (NeighbourhoodAttention, {}),
        "dwvit": (PooledMixer, {}),
        "dwhead": (DepthwiseHeads, {"act": "relu"}),
        "ddw": (SampleMixer, {}),
        "iddw": (PositionMixer, {}),
        "dw": (StaticMixer, {}),
    }
)
_ATTENTION: Mapping[str, type[Attention]] = {
    "global": GlobalAttention,
    "window": WindowAttention,
    "local": NeighbourhoodAttention,
}
_GENERATED: Mapping[str, type[Mixer]] = {
    kind.kernel: kind for kind in (PooledMixer, SampleMixer, PositionMixer, StaticMixer)
}
# Which channels share a kernel, the usual choice first.
_SHARED: Mapping[str, tuple[str, ...]] = {
    **{"pairwise": ("heads", "depthwise"), "pooled": ("depthwise",), "sample": ("depthwise",)},
    **{"position": ("per_group",), "static": ("depthwise", "dense")},
}
_RULE = ("act", "norm", "count_power", "out_norm")
# How to compute, not what: mixers without the choice ignore them.
_HINTS = ("impl", "query_chunk")
# What the classes without such an option do anyway, so it may be given.
_NEUTRAL: Mapping[str, Any] = {
    **{"act": "identity", "norm": None, "norm_pos": "pre", "affine": "head", "bias": None},
    **{"count_power": "auto", "out_norm": None, "attn_drop": 0.0, "size": 7, "shift": 0},
}


def make_mixer(
    mixer: str | Mapping[str, Any],
    dim: int,
    num_heads: int,
    window_size: int = 7,
    shift: int = 0,
    **overrides: Any,
) -> Mixer:
    """Make a mixer by the name of a preset.

    Args:
        mixer: One of ``MIXERS``, or a dict with ``preset`` and what replaces the preset's options:
            those of its class and of :class:`mmvitconv.ops.dynamic_attention.Activation`;
            ``reach`` (``'global'``, ``'window'`` or ``'local'``) for attention elsewhere; and
            ``groups``, ``'depthwise'`` or ``('heads', h)``.
        dim: Channels C.
        num_heads: Heads of pairwise kernels; channels of a group of per-position ones.
        window_size: Size of windows, where the mixer has them.
        shift: Their shift.
        overrides: Options that replace the preset's and the dict's.

    Returns:
        The mixer.

    Raises:
        ValueError: Unknown preset, an option that the mixer does not have, or an illegal value.

    Examples:
        >>> make_mixer("ln_relu", 64, 2).macs(14, 14)
        8128512
    """
    options = {"preset": mixer} if isinstance(mixer, str) else dict(mixer)
    name = options.pop("preset", None)
    if name not in MIXERS:
        raise ValueError(
            f"mixer={mixer!r} is unknown; give one of {', '.join(MIXERS)}, or a dict with one of "
            "them as preset"
        )
    kind, defaults = MIXERS[name]
    shared = "depthwise" if kind is DepthwiseHeads else _SHARED[kind.kernel][0]
    axes = {"kernel": kind.kernel, "reach": kind.reach, "groups": (shared, num_heads)}
    options = {**axes, **defaults, **options, **overrides}
    if options["reach"] == "window":
        options = {"size": window_size, "shift": shift, **options}
    made = _make(dim, **options)
    made.name = name
    return made


class DynamicConvMixer:
    """The former class of all mixers, for one release; makes one of today's by its axes."""

    def __new__(
        cls,
        dim: int,
        *,
        kernel: str = "pairwise",
        reach: str = "global",
        groups: tuple[str, int] | str = ("heads", 1),
        name: str | None = None,
        **options: Any,
    ) -> Mixer:
        """Make the mixer and warn."""
        message = "DynamicConvMixer is deprecated; use make_mixer, or a class of layers.mixers"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        mixer = _make(dim, kernel, reach, groups, **options)
        mixer.name = name or f"{kernel} {reach}"
        return mixer


def _make(
    dim: int,
    kernel: str,
    reach: str,
    groups: tuple[str, int] | str,
    gen: Mapping[str, Any] | None = None,
    **options: Any,
) -> Mixer:
    """Make the mixer that the axes of docs/specs/dynconv.md#6-mixer mean."""
    shared, number = (groups, dim) if isinstance(groups, str) else groups
    number = dim if shared == "depthwise" else number
    kind = _choose(kernel, reach, shared, options.get("norm"))
    options |= _generator_options(gen or {}, options.get("size", 7))
    if shared == "dense":
        options["dense"] = True
    positional = [dim]
    if kind is not DepthwiseHeads and issubclass(kind, (PairwiseMixer, PositionMixer)):
        positional.append(number)
    if issubclass(kind, Attention):
        rule = {key: options.pop(key) for key in _RULE if key in options}
        position = options.pop("norm_pos", "pre")
        check_choice("norm_pos", position, ("pre", "post"))
        check_choice("norm", rule.get("norm"), (None, "ln_key"))
        positional.append(Activation(**rule | {"norm": position if rule.get("norm") else None}))
    legal = _options_of(kind)
    for key in [key for key in options if key not in legal]:
        if key in _HINTS or (key in _NEUTRAL and options[key] == _NEUTRAL[key]):
            del options[key]
        else:
            raise ValueError(
                f"{kind.__name__} (kernel={kernel!r}, reach={reach!r}) takes no "
                f"{key}={options[key]!r}; its options are {', '.join(legal)}"
            )
    return kind(*positional, **options)


def _choose(kernel: str, reach: str, shared: str, norm: str | None) -> type[Mixer]:
    check_choice("kernel", kernel, ("pairwise", *_GENERATED))
    check_choice("reach", reach, _ATTENTION)
    check_choice(f"groups of kernel={kernel!r}", shared, _SHARED[kernel])
    if kernel != "pairwise":
        if reach != "local":
            raise ValueError(f"kernel={kernel!r} has taps around a position: give reach='local'")
        return _GENERATED[kernel]
    if norm in ("l1_token", "l2_token"):
        if reach != "global":
            raise ValueError(f"norm={norm!r} takes its norm over all tokens: give reach='global'")
        return TokenNormAttention
    return DepthwiseHeads if (shared, reach) == ("depthwise", "global") else _ATTENTION[reach]


def _generator_options(gen: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Translate ``gen``: ``reduction``, or ``scope`` and ``window`` of pooled kernels."""
    options = dict(gen)
    scope = options.pop("scope", "image")
    check_choice("gen['scope']", scope, ("image", "window"))
    window = options.pop("window", size)
    return options | ({"window": window} if scope == "window" else {})


def _options_of(kind: type[Mixer]) -> list[str]:
    """Return the names of a class's keyword arguments, its parents' included."""
    parents = [inspect.signature(parent.__init__) for parent in kind.__mro__]
    arguments = [argument for parent in parents for argument in parent.parameters.values()]
    names = [argument.name for argument in arguments if argument.kind is argument.KEYWORD_ONLY]
    return list(dict.fromkeys(names))
