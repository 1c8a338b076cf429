"""One token mixer with four axes: how its kernel is made, where it reaches, groups, activation.

The reading of attention as a convolution with a dynamic kernel follows the abstract of
arXiv:2309.10713, the only part of that paper that was available; what is built from it here is our
own design, except for the rows of the table that are public models (sections 1, 2 and 6 of the
specification).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitconv.models.layers.window import from_windows, relative_position_index, to_windows
from mmvitconv.ops.depthwise_conv import depthwise_conv2d
from mmvitconv.ops.dynamic_attention import (
    ACTIVATIONS,
    ELEMENTWISE,
    Activation,
    activate,
    dynamic_attention,
)
from mmvitconv.ops.dynamic_conv import IMPLEMENTATIONS, dynamic_depthwise_conv2d
from mmvitconv.ops.precision import without_autocast
from mmvitconv.ops.traced import is_exported

__all__ = ["MIXERS", "DynamicConvMixer", "make_mixer"]

KERNELS = ("pairwise", "pooled", "sample", "position", "static")
REACHES = ("global", "window", "local")
_EPS = 1e-6
_MEAN_ONE = math.sqrt(2 * math.pi)  # what makes the mean of a standardised ReLU 1
# Columns of section 2.
_COLUMNS = ("kernel", "reach", "per_position", "groups", "activation", "static_term")


def _preset(**options: Any) -> Mapping[str, Any]:
    return MappingProxyType(options)


# groups='heads' and 'per_group' get their number from the model: its heads.
MIXERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "deit": _preset(kernel="pairwise", reach="global", act="softmax"),
        "swin": _preset(kernel="pairwise", reach="window", act="softmax", bias="rel_table"),
        "relu_n": _preset(kernel="pairwise", reach="global", act="relu"),
        "ln_relu": _preset(kernel="pairwise", reach="global", act="relu", norm="ln_key"),
        "relu_ln": _preset(
            kernel="pairwise", reach="global", act="relu", norm="ln_key", norm_pos="post"
        ),
        "rela": _preset(
            kernel="pairwise", reach="global", act="relu", out_norm="rms", count_power=0
        ),
        "sima": _preset(kernel="pairwise", reach="global", act="identity", norm="l1_token"),
        "natt": _preset(kernel="pairwise", reach="local", act="softmax"),
        "dwvit": _preset(
            kernel="pooled",
            reach="local",
            groups="depthwise",
            act="relu",
            norm="ln_channel",
            bias="static_kernel",
        ),
        "dwhead": _preset(kernel="pairwise", reach="global", groups="depthwise", act="relu"),
        "ddw": _preset(kernel="sample", reach="local", groups="depthwise", act="identity"),
        "iddw": _preset(kernel="position", reach="local", groups="per_group", act="identity"),
        "dw": _preset(kernel="static", reach="local", groups="depthwise", act="identity"),
    }
)


def make_mixer(
    mixer: str | Mapping[str, Any],
    dim: int,
    num_heads: int,
    window_size: int = 7,
    shift: int = 0,
    **overrides: Any,
) -> "DynamicConvMixer":
    """A mixer by the name of a preset.

    Args:
        mixer: One of ``MIXERS``, or a dict with ``preset`` and any option of
            :class:`DynamicConvMixer` that replaces the preset's.
        dim: Channels.
        num_heads: Heads of pairwise kernels; channels of a group of per-position ones.
        window_size: Size of windows, where the mixer has them.
        shift: Their shift.
        overrides: Options that replace the preset's and the dict's.

    Raises:
        ValueError: Unknown preset, or an illegal combination of options.
    """
    options = {"preset": mixer} if isinstance(mixer, str) else dict(mixer)
    name = options.pop("preset", None)
    if name not in MIXERS:
        raise ValueError(
            f"mixer={mixer!r} is unknown; give one of {', '.join(MIXERS)}, or a dict with one of "
            "them as preset"
        )
    options = {**MIXERS[name], **options, **overrides}
    if options["reach"] == "window":
        options = {"size": window_size, "shift": shift, **options}
    groups = options.get("groups", "heads")
    if groups in ("heads", "per_group"):
        options["groups"] = (groups, num_heads)
    return DynamicConvMixer(dim, name=name, **options)


class DynamicConvMixer(nn.Module):
    """Token mixer that is a convolution with a generated kernel (section 6).

    It has its own projections, but neither a residual nor a norm in front.

    Args:
        dim: Channels of input and output.
        kernel: ``'pairwise'`` (a query with keys: attention), ``'pooled'`` (from the map's coarse
            layout), ``'sample'`` (from the map's mean), ``'position'`` (from the centre), or
            ``'static'``.
        reach: ``'global'``, ``'window'`` or ``'local'``, the neighbourhood of a position.
        size: Side of the window or neighbourhood; odd for a neighbourhood.
        shift: How far windows are shifted, with the map's borders joined and masked.
        groups: ``('heads', h)``, ``'depthwise'``, ``('per_group', m)`` with m channels in a group,
            or, for static kernels, ``'dense'``.
        act: What is applied to the kernel, or between the two products: ``'softmax'``, ``'relu'``,
            ``'relu2'``, ``'gelu'``, ``'sigmoid'``, ``'softplus'`` or ``'identity'``.
        norm: ``'ln_key'`` standardises scores over the keys, ``'l1_token'`` and ``'l2_token'``
            divide queries and keys by their norm over tokens; ``'ln_channel'`` and ``'bn'`` are for
            pooled kernels.
        norm_pos: ``'pre'`` or ``'post'``: ``'ln_key'`` before or behind the activation.
        affine: ``'head'``: a factor and a summand for each head behind ``'ln_key'``; ``'key'``: for
            each key of a window too.
        count_power: See :class:`mmvitconv.ops.dynamic_attention.Activation`.
        bias: ``'rel_table'`` for windows; ``'static_kernel'`` for neighbourhoods; or None.
        out_norm: ``'rms'`` or ``'ln'`` of each head's output, or None.
        gen: Of the kernel's generator: ``reduction`` (4) of ``'sample'`` and ``'position'``;
            ``scope`` of ``'pooled'``: ``'image'``, or ``'window'`` with a kernel for each window
            of side ``window`` (default ``size``).
        qkv_bias: Whether q, k and v have a bias.
        attn_drop: Dropout of the activated scores, in [0, 1).
        proj_drop: Dropout of the output, in [0, 1).
        impl: Of dynamic neighbourhoods, see
            :func:`mmvitconv.ops.dynamic_conv.dynamic_depthwise_conv2d`.
        query_chunk: See :func:`mmvitconv.ops.dynamic_attention.dynamic_attention`.
        name: What :meth:`describe` calls it.

    Raises:
        ValueError: The combination is illegal; the message says why.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel: str = "pairwise",
        reach: str = "global",
        size: int = 7,
        shift: int = 0,
        groups: tuple[str, int] | str = ("heads", 1),
        act: str = "softmax",
        norm: str | None = None,
        norm_pos: str = "pre",
        affine: str = "head",
        count_power: float | str = "auto",
        bias: str | None = None,
        out_norm: str | None = None,
        gen: Mapping[str, Any] | None = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        impl: str = "auto",
        query_chunk: int | str | None = "auto",
        name: str | None = None,
    ) -> None:
        super().__init__()
        kind, number = (groups, 0) if isinstance(groups, str) else tuple(groups)
        gen = dict(gen or {})
        self._has_gen = bool(gen)
        self.dim, self.kernel, self.reach, self.size, self.shift = dim, kernel, reach, size, shift
        self.group_kind, self.group_number = kind, number
        self.act, self.norm_kind, self.norm_pos, self.affine = act, norm, norm_pos, affine
        self.count_power, self.bias_kind, self.out_norm = count_power, bias, out_norm
        self.scope = gen.pop("scope", "image")
        self.scope_window = gen.pop("window", size)
        self.reduction = gen.pop("reduction", 4)
        self.attn_drop, self.impl, self.query_chunk = attn_drop, impl, query_chunk
        self.name = name or f"{kernel} {reach}"
        reason = self._reason_against(gen)
        if reason:
            raise ValueError(f"this mixer is illegal: {reason}")
        self.heads = number if kind == "heads" else dim
        self.proj_drop = nn.Dropout(proj_drop)
        if self.is_dwnet:
            self._build_dwnet()
            return
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if kernel == "pooled":
            self.static_key = self.static_value = None
            if bias == "static_kernel":
                self.static_key = nn.Parameter(0.02 * torch.randn(dim, size, size))
                self.static_value = nn.Parameter(0.02 * torch.randn(dim, size, size))
            norms = {"ln_channel": nn.LayerNorm, "bn": nn.BatchNorm2d}
            self.norm = norms[norm](dim, eps=_EPS) if norm else None
            return
        self.gamma = self.beta = None
        if norm == "ln_key":
            shape = (self.heads, size * size) if affine == "key" else (self.heads,)
            self.gamma = nn.Parameter(torch.ones(shape))
            self.beta = nn.Parameter(torch.zeros(shape))
        self.relative_position_bias_table = self.static_kernel = None
        if bias == "rel_table":
            table = torch.zeros((2 * size - 1) ** 2, self.heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            index = relative_position_index(size)
            self.register_buffer("relative_position_index", index, persistent=False)
        elif bias == "static_kernel":
            self.static_kernel = nn.Parameter(0.02 * torch.randn(self.heads, size, size))

    @property
    def is_dwnet(self) -> bool:
        """Whether it is one of DWNet's, whose block has no norm in front of the mixer."""
        return self.kernel in ("static", "sample", "position")

    def _reason_against(self, unknown_gen: Mapping[str, Any]) -> str | None:
        """Why the options do not go together, or None."""
        for option, value, legal in (
            ("kernel", self.kernel, KERNELS),
            ("reach", self.reach, REACHES),
            ("act", self.act, ACTIVATIONS),
            ("groups", self.group_kind, ("heads", "depthwise", "per_group", "dense")),
            ("norm_pos", self.norm_pos, ("pre", "post")),
            ("affine", self.affine, ("head", "key")),
            ("out_norm", self.out_norm, (None, "rms", "ln")),
            ("impl", self.impl, IMPLEMENTATIONS),
            ("gen['scope']", self.scope, ("image", "window")),
            ("bias", self.bias_kind, (None, "rel_table", "static_kernel")),
            ("norm", self.norm_kind,
             (None, "ln_key", "l1_token", "l2_token", "ln_channel", "bn")),
        ):  # fmt: skip
            if value not in legal:
                return f"{option}={value!r} is unknown, give one of {legal}"
        if self.group_kind == "dense" and self.kernel != "static":
            return (
                "a dense dynamic kernel would have C x C generated entries for each tap: only "
                "kernel='static' can be dense"
            )
        if unknown_gen:
            return f"gen has unknown entries {sorted(unknown_gen)}"
        if self.dim < 1 or self.size < 1:
            return f"dim={self.dim} and size={self.size} must be at least 1"
        if self.reach == "local" and self.size % 2 == 0:
            return f"a neighbourhood has a centre, so size={self.size} must be odd"
        if self.shift and not (self.reach == "window" and 0 < self.shift < self.size):
            return f"shift={self.shift} is for windows, and smaller than their size={self.size}"
        if self.group_kind in ("heads", "per_group") and (
            self.group_number < 1 or self.dim % self.group_number
        ):
            return f"dim={self.dim} cannot be divided by {self.group_kind}={self.group_number}"
        if self.count_power not in ("auto", "l1") and not isinstance(
            self.count_power, (int, float)
        ):
            return f"count_power={self.count_power!r} must be 'auto', 'l1' or a number"
        if self.act == "softmax" and self.count_power != "auto":
            return f"the rows of softmax sum to 1, so count_power={self.count_power!r} has no place"
        if self.query_chunk not in ("auto", None) and (
            not isinstance(self.query_chunk, int) or self.query_chunk < 1
        ):
            return f"query_chunk={self.query_chunk!r} must be 'auto', None or at least 1"
        if not 0 <= self.attn_drop < 1:
            return f"attn_drop={self.attn_drop} must be in [0, 1)"
        if self.kernel == "pairwise":
            if self._has_gen:
                return "gen is the generator of a kernel; pairwise kernels have none"
            return self._reason_against_pairwise()
        return self._reason_against_generated()

    def _reason_against_pairwise(self) -> str | None:
        if self.group_kind == "per_group":
            return "pairwise kernels are shared by heads: give ('heads', h) or 'depthwise'"
        if self.norm_kind in ("ln_channel", "bn"):
            return f"norm={self.norm_kind!r} is for pooled kernels; scores have keys, not channels"
        if self.norm_kind == "ln_key" and self.act == "softmax":
            return "softmax normalises over the keys already, so norm='ln_key' has no place"
        if self.bias_kind == "rel_table" and self.reach != "window":
            return f"bias='rel_table' needs windows of a fixed size, but reach={self.reach!r}"
        if self.bias_kind == "static_kernel" and self.reach != "local":
            return f"bias='static_kernel' needs a neighbourhood, but reach={self.reach!r}"
        if self.affine == "key" and not (self.reach == "window" and self.norm_kind == "ln_key"):
            return "affine='key' fixes the number of keys: it needs reach='window', norm='ln_key'"
        if self.norm_kind in ("l1_token", "l2_token"):
            if self.act != "identity" or self.reach != "global":
                return (
                    f"norm={self.norm_kind!r} takes its norm over all tokens and replaces the "
                    "activation: give reach='global' and act='identity'"
                )
            if self.count_power != "auto" or self.attn_drop or self.out_norm:
                return f"norm={self.norm_kind!r} has no map of scores to divide or drop"
        if self.group_kind == "depthwise" and self.reach != "window":
            if self.reach == "local":
                return "a pairwise kernel for each channel is for reach='global' or 'window'"
            if self.act not in ("relu", "identity"):
                return (
                    f"a map of scores for each channel would have C * N * N numbers, and "
                    f"act={self.act!r} does not factorise: give 'relu', or reach='window'"
                )
            if self.norm_kind or self.attn_drop or self.out_norm or self.count_power != "auto":
                return (
                    "a map of scores for each channel would have C * N * N numbers; without norm, "
                    "dropout and count_power it factorises, with them give reach='window'"
                )
        return None

    def _reason_against_generated(self) -> str | None:
        if self.reach != "local":
            return f"kernel={self.kernel!r} has taps around a position: give reach='local'"
        if self.kernel == "position":
            if self.group_kind != "per_group":
                return "kernel='position' is shared inside of groups: give ('per_group', m)"
        elif self.group_kind not in ("depthwise", "dense"):
            return f"kernel={self.kernel!r} has a kernel for each channel: give 'depthwise'"
        if self.out_norm or self.affine == "key" or self.attn_drop:
            return f"out_norm, affine='key' and attn_drop need scores; {self.kernel!r} has none"
        if self.kernel == "pooled":
            if self.act == "softmax":
                return "between two depth-wise convolutions softmax has no axis of keys"
            if self.norm_kind not in (None, "ln_channel", "bn"):
                return f"norm={self.norm_kind!r} needs scores; give 'ln_channel', 'bn' or None"
            if self.bias_kind == "rel_table":
                return "bias='rel_table' needs scores; a pooled kernel takes 'static_kernel'"
            if self.count_power == "l1":
                return "count_power='l1' needs rows of scores; give 'auto' or a number"
            return None
        if self.act != "identity" or self.norm_kind or self.bias_kind:
            return (
                f"kernel={self.kernel!r} is DWNet's, whose kernel has no activation, norm or bias "
                f"of its own: give act='identity', norm=None and bias=None"
            )
        return None

    def _build_dwnet(self) -> None:
        """Norms between 1x1 convolutions, and a kernel that is static or generated (section 6)."""
        dim, size = self.dim, self.size
        hidden = max(dim // self.reduction, 1)
        self.conv1 = nn.Conv2d(dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        if self.kernel == "static":
            groups = 1 if self.group_kind == "dense" else dim
            self.dwconv = nn.Conv2d(dim, dim, size, padding=size // 2, groups=groups)
        elif self.kernel == "sample":
            self.gen = nn.Sequential(
                nn.Conv2d(dim, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, dim * size * size, 1),
            )
            self.out_bias = nn.Parameter(torch.zeros(dim))
        else:
            self.gen = nn.Sequential(
                nn.Conv2d(dim, hidden, 1),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, size * size * (dim // self.group_number), 1),
            )
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix a map.

        Args:
            x: Shape (B, C, H, W).
            key_padding_mask: Shape (B, H, W), True where the map is padding, or None. What the
                other positions get does not depend on what the padding holds, nor, at the right
                and lower border, on how much there is of it: except that windows are shifted along
                a side where the whole map, not the sample, is longer than one. Norms over batches
                see the padding in training. With a mask softmax in windows does not see the zeros
                that fill the map up either.

        Returns:
            Shape (B, C, H, W).
        """
        x = x.permute(0, 2, 3, 1).contiguous()  # once, as several readers would each copy it
        return self.mix(x, key_padding_mask).permute(0, 3, 1, 2)

    def mix(
        self, x: Tensor, key_padding_mask: Tensor | None = None, prefix: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mix a map whose channels come last.

        Args:
            x: Shape (B, H, W, C).
            key_padding_mask: Shape (B, H, W), True where the map is padding, or None.
            prefix: Tokens beside the map, such as a class token, shape (B, P, C). Only global
                pairwise kernels see them; for others they get zeros.

        Returns:
            Shape (B, H, W, C), and with ``prefix`` a pair of it and (B, P, C).
        """
        valid = None if key_padding_mask is None else ~key_padding_mask
        if self.kernel == "pairwise" and self.reach == "global":
            tokens = x.flatten(1, 2)
            number = 0 if prefix is None else prefix.shape[1]
            if valid is not None:
                valid = F.pad(valid.flatten(1), (number, 0), value=True)
            if number:
                tokens = torch.cat([prefix, tokens], dim=1)
            tokens = self._project(self._mix_globally(tokens, valid))
            out = tokens[:, number:].unflatten(1, x.shape[1:3])
            return out if prefix is None else (out, tokens[:, :number])
        if self.is_dwnet:
            out = self._mix_dwnet(x, valid)
        elif self.kernel == "pooled":
            out = self._project(self._mix_pooled(x, valid))
        elif self.reach == "window":
            out = self._project(self._mix_windows(x, valid))
        else:
            out = self._project(self._mix_neighbourhoods(x, valid))
        return out if prefix is None else (out, torch.zeros_like(prefix))

    def _project(self, x: Tensor) -> Tensor:
        return self.proj_drop(self.proj(x))

    # --- pairwise ---------------------------------------------------------------------------

    def _split_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of shape (B, h, N, d)."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def _join_heads(self, y: Tensor) -> Tensor:
        """(B, h, N, d) -> (B, N, C), each head normalised if it is to be."""
        if self.out_norm:
            dtype = y.dtype
            y = y.to(torch.promote_types(dtype, torch.float32))
            if self.out_norm == "ln":
                y = y - y.mean(dim=-1, keepdim=True)
            y = (y * (y.square().mean(dim=-1, keepdim=True) + _EPS).rsqrt()).to(dtype)
        return y.transpose(1, 2).flatten(2)

    def _affine(self) -> tuple[Tensor | None, Tensor | None]:
        if self.gamma is None:
            return None, None
        shape = (self.heads, 1, -1)
        return self.gamma.view(shape), self.beta.view(shape)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        rule = self._activation()
        return dynamic_attention(q, k, v, rule, *self._affine(), bias, valid, self.query_chunk)

    def _activation(self) -> Activation:
        return Activation(
            self.act,
            self.norm_pos if self.norm_kind == "ln_key" else None,
            self.count_power,
            self.attn_drop if self.training else 0.0,
        )

    def _mix_globally(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        if self.group_kind == "depthwise":
            return self._gate_by_means(tokens, valid)
        q, k, v = self._split_heads(tokens)
        if self.norm_kind in ("l1_token", "l2_token"):
            return self._join_heads(self._multiply_by_tokens(q, k, v, valid))
        keys = None if valid is None else valid[:, None, None, :]
        if self.out_norm and q.dtype == torch.float16:
            # Sums over many keys leave float16 before the norm brings them back.
            with without_autocast(q):
                out = self._attend(q.float(), k.float(), v.float(), None, keys)
                return self._join_heads(out).half()
        return self._join_heads(self._attend(q, k, v, None, keys))

    def _multiply_by_tokens(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """SimA: q and k divided by their norm over the tokens, in the cheaper order (section 2)."""
        dtype = q.dtype
        order = 1 if self.norm_kind == "l1_token" else 2
        q, k = (t.to(torch.promote_types(dtype, torch.float32)) for t in (q, k))
        if valid is not None:
            seen = valid[:, None, :, None]
            q, k = q.masked_fill(~seen, 0.0), k.masked_fill(~seen, 0.0)
        with without_autocast(q):  # sums over tokens
            q, k = (F.normalize(t, p=order, dim=2, eps=_EPS) for t in (q, k))
            v = v.to(q.dtype)
            if q.shape[2] > q.shape[3]:
                out = q @ (k.transpose(2, 3) @ v)
            else:
                out = (q @ k.transpose(2, 3)) @ v
        return out.to(dtype)

    def _gate_by_means(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """A head for each channel, in linear time: ``relu(ab)`` of numbers factorises."""
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        dtype = q.dtype
        q, k, v = (t.to(torch.promote_types(dtype, torch.float32)) for t in (q, k, v))
        count: Tensor | int = tokens.shape[1]
        if valid is not None:
            v = v * valid.unsqueeze(-1)
            count = valid.sum(dim=1).clamp(min=1).view(-1, 1, 1)
        if self.act == "identity":
            return (q * ((k * v).sum(dim=1, keepdim=True) / count)).to(dtype)
        positive = (k.relu() * v).sum(dim=1, keepdim=True) / count
        negative = ((-k).relu() * v).sum(dim=1, keepdim=True) / count
        return (q.relu() * positive + (-q).relu() * negative).to(dtype)

    def _mix_windows(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Attention in windows; where the borders meet by the shift they do not see each other.

        Softmax follows timm's Swin, as checkpoints depend on it: the map is shifted, then filled
        up to whole windows with zeros, which are seen; on a map that is no multiple of the window
        a few rows and columns of opposite borders then see each other. Other activations, and maps
        with padding, are filled first, and see neither.
        """
        _, height, width, _ = x.shape
        size = self.size
        # A map that fits one window needs no shift, for each side by itself.
        shifts = [self.shift if length > size else 0 for length in (height, width)]
        follows_swin = self.act == "softmax" and valid is None
        if not follows_swin and (height % size or width % size):
            filling = (0, -width % size, 0, -height % size)
            if valid is None:
                valid = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
            x, valid = F.pad(x, (0, 0, *filling)), F.pad(valid, filling)
        if any(shifts):
            back = (-shifts[0], -shifts[1])
            x = x.roll(back, dims=(1, 2))
            valid = None if valid is None else valid.roll(back, dims=(1, 2))
        windows = to_windows(x, size)
        q, k, v = self._split_heads(windows)
        bias = None
        if self.relative_position_bias_table is not None:
            bias = self.relative_position_bias_table[self.relative_position_index]
            bias = bias.view(size * size, size * size, -1).permute(2, 0, 1)
        seen = self._seen_in_windows(x.shape[1:3], shifts, valid, x.device)
        if seen is not None:
            if follows_swin:
                # As a summand: scaled_dot_product_attention takes one mask.
                bias = q.new_zeros(()) if bias is None else bias
                bias = torch.where(seen.unsqueeze(1), bias, -math.inf)
                bias = bias.repeat(windows.shape[0] // bias.shape[0], 1, 1, 1)
                seen = None
            else:
                seen = seen.repeat(windows.shape[0] // seen.shape[0], 1, 1).unsqueeze(1)
        out = self._join_heads(self._attend(q, k, v, bias, seen))
        out = from_windows(out, size, *x.shape[1:3])
        out = out.roll(tuple(shifts), dims=(1, 2)) if any(shifts) else out
        return out[:, :height, :width]

    def _seen_in_windows(
        self,
        map_size: tuple[int, int],
        shifts: list[int],
        valid: Tensor | None,
        device: torch.device,
    ) -> Tensor | None:
        """Which keys a query sees, shape (windows of one image or of all, M * M or 1, M * M)."""
        size, seen = self.size, None
        if any(shifts):
            sides = [-(-length // size) * size for length in map_size]
            rows, columns = (
                torch.arange(side, device=device) >= side - shift
                for side, shift in zip(sides, shifts, strict=True)
            )
            region = 2 * rows[:, None] + columns.int()
            region = to_windows(region[None, :, :, None], size).squeeze(-1)
            seen = region.unsqueeze(1) == region.unsqueeze(2)
        if valid is None:
            return seen
        own = to_windows(valid.unsqueeze(-1).int(), size).squeeze(-1).bool().unsqueeze(1)
        return own if seen is None else own & seen.repeat(own.shape[0] // seen.shape[0], 1, 1)

    def _mix_neighbourhoods(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Keys around a position; those outside of the map do not count."""
        _, height, width, _ = x.shape
        q, k, v = self._split_heads(x.flatten(1, 2))
        k, v = (self._unfold(t, height, width) for t in (k, v))
        inside = torch.ones(1, 1, height, width, device=x.device, dtype=x.dtype)
        inside = inside if valid is None else valid.unsqueeze(1).to(x.dtype)
        seen = F.unfold(inside, self.size, padding=self.size // 2).transpose(1, 2) > 0.5
        scores = (q.unsqueeze(3) * q.shape[-1] ** -0.5 * k).sum(dim=-1)
        if self.static_kernel is not None:
            scores = scores + self.static_kernel.flatten(1).unsqueeze(1)
        weights = activate(scores, self._activation(), *self._affine(), seen.unsqueeze(1))
        y = (weights.to(v.dtype).unsqueeze(-1) * v).sum(dim=3)
        return self._join_heads(y).unflatten(1, (height, width))

    def _unfold(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B, h, N, d) -> the neighbourhood of each position, (B, h, N, k * k, d)."""
        batch, heads, _, channels = tokens.shape
        maps = tokens.transpose(2, 3).reshape(batch, heads * channels, height, width)
        patches = F.unfold(maps, self.size, padding=self.size // 2)
        patches = patches.view(batch, heads, channels, self.size**2, height * width)
        return patches.permute(0, 1, 4, 3, 2)

    # --- pooled -----------------------------------------------------------------------------

    def _mix_pooled(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if self.scope == "image":
            return self._convolve_twice(x, valid)
        size = self.scope_window
        _, height, width, _ = x.shape
        windows = to_windows(x, size).unflatten(1, (size, size))
        if valid is not None or height % size or width % size:
            valid = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device) if valid is None \
                else valid  # fmt: skip
            valid = to_windows(valid.unsqueeze(-1).int(), size).squeeze(-1).bool()
            valid = valid.unflatten(1, (size, size))
        out = self._convolve_twice(windows, valid).flatten(1, 2)
        return from_windows(out, size, height, width)

    def _convolve_twice(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The image convolved with the key kernel, activated, and with the value kernel.

        Section 5. Keys and values of the pooled layout are those of the map, pooled: projections
        are linear.
        """
        dim, size = self.dim, self.size
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(x, weight[:dim], None if bias is None else bias[:dim])
        layout = pool_layout(x, size, valid).to(x.dtype)
        kernels = F.linear(layout, weight[dim:], None if bias is None else bias[dim:])
        keys, values = kernels.permute(0, 3, 1, 2).chunk(2, dim=1)
        keys = keys / size
        if self.static_key is not None:
            keys, values = keys + self.static_key, values + self.static_value
        u = self._convolve(q, keys, valid)
        if self.norm_kind == "ln_channel":
            u = self.norm(u)
        elif self.norm_kind == "bn":
            u = self.norm(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        in_place = self.act == "relu" and not torch.is_grad_enabled()
        z = u.relu_() if in_place else ELEMENTWISE[self.act](u)
        power = self.count_power
        factor = _MEAN_ONE / size**2 if power == "auto" else float(size**2) ** -float(power)
        return self._convolve(z, values * factor, valid)

    def _convolve(self, x: Tensor, kernels: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:  # padding is as empty as what lies outside of the map
            x = x * valid.unsqueeze(-1)
        out = dynamic_depthwise_conv2d(x.permute(0, 3, 1, 2), kernels, self.impl)
        return out.permute(0, 2, 3, 1)

    # --- DWNet ------------------------------------------------------------------------------

    def _mix_dwnet(self, x: Tensor, valid: Tensor | None) -> Tensor:
        seen = None if valid is None else valid.unsqueeze(1)
        x = F.relu(self.bn1(self.conv1(x.permute(0, 3, 1, 2))))
        x = x if seen is None else x * seen
        if self.group_kind == "dense":
            x = self.dwconv(x)
        elif self.kernel == "static":
            x = depthwise_conv2d(x, self.dwconv.weight, self.dwconv.bias)
        elif self.kernel == "sample":
            count = x.shape[2] * x.shape[3]
            if seen is not None:
                count = seen.sum(dim=(2, 3), keepdim=True).clamp(min=1)
            mean = x.sum(dim=(2, 3), keepdim=True) / count
            kernels = self.gen(mean).view(-1, self.dim, self.size, self.size)
            x = dynamic_depthwise_conv2d(x, kernels, self.impl)
            x = x + self.out_bias.to(x.dtype).view(-1, 1, 1)
        else:
            x = self._convolve_by_position(x)
        x = self.bn3(self.conv2(F.relu(self.bn2(x))))
        return self.proj_drop(x.permute(0, 2, 3, 1))

    def _convolve_by_position(self, x: Tensor) -> Tensor:
        """A kernel for each position and group of channels."""
        batch, dim, height, width = x.shape
        groups = dim // self.group_number
        kernels = self.gen(x).view(batch, groups, 1, self.size**2, height * width)
        patches = F.unfold(x, self.size, padding=self.size // 2)
        patches = patches.view(batch, groups, self.group_number, self.size**2, height * width)
        return (patches * kernels.to(patches.dtype)).sum(dim=3).view(x.shape)

    # --- what it is and what it costs ---------------------------------------------------------

    def describe(self) -> dict[str, str]:
        """The mixer's row of the table of section 2."""
        reach = {"global": "global", "window": f"window {self.size}"}.get(
            self.reach, f"{self.size} x {self.size}"
        )
        if self.kernel == "pooled":
            reach += ", twice"
        if self.shift:
            reach += f", shift {self.shift}"
        groups = {"depthwise": "C", "dense": "dense"}.get(self.group_kind) or (
            f"{self.group_number} heads" if self.group_kind == "heads" else
            f"{self.dim // self.group_number} of {self.group_number} channels")  # fmt: skip
        norms = {None: "", "ln_key": "LN over keys", "ln_channel": "LN over channels", "bn": "BN",
                 "l1_token": "L1 over tokens", "l2_token": "L2 over tokens"}  # fmt: skip
        parts = [norms[self.norm_kind], "" if self.act == "identity" else self.act]
        if self.norm_pos == "post":
            parts.reverse()
        if self.out_norm:
            parts.append(f"{self.out_norm.upper()} of the output")
        static = {"rel_table": "relative position", "static_kernel": "static kernel"}
        values = (
            self.kernel,
            reach,
            "yes" if self.kernel in ("pairwise", "position") else "no",
            groups,
            ", ".join(part for part in parts if part) or "none",
            "all" if self.kernel == "static" else static.get(self.bias_kind, "none"),
        )
        return {"name": self.name, **dict(zip(_COLUMNS, values, strict=True))}

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds for a map of one image (section 5); norms, pooling and sums are free."""
        n, c, taps = height * width, self.dim, self.size**2
        if self.kernel == "static":
            return 2 * n * c * c + n * taps * c * (c if self.group_kind == "dense" else 1)
        if self.is_dwnet:
            hidden = max(c // self.reduction, 1)
            made = c * taps if self.kernel == "sample" else taps * (c // self.group_number)
            times = 1 if self.kernel == "sample" else n
            return 2 * n * c * c + n * taps * c + times * (c * hidden + hidden * made)
        if self.kernel == "pooled":
            kernels = 1
            if self.scope == "window":
                kernels = -(-height // self.scope_window) * -(-width // self.scope_window)
            return 2 * n * c * c + kernels * 2 * taps * c * c + 2 * n * taps * c
        if self.reach == "global":
            keys: float = n
            if self.group_kind == "depthwise":
                keys = 2 if self.act == "relu" else 1
            elif self.norm_kind in ("l1_token", "l2_token"):
                keys = min(n, c // self.heads)
            return 4 * n * c * c + int(2 * n * keys * c)
        return 4 * n * c * c + 2 * n * taps * c

    def extra_repr(self) -> str:
        """What repr shows."""
        return f"{self.dim}, {self.name!r}, kernel={self.kernel!r}, reach={self.reach!r}"


def pool_layout(x: Tensor, size: int, valid: Tensor | None) -> Tensor:
    """The coarse layout of a map: means of ``size`` x ``size`` cells, in float32.

    Args:
        x: Shape (B, H, W, C); cells repeat where it is smaller than ``size``.
        size: Cells to a side.
        valid: Shape (B, H, W): what is no padding, or None. Cells divide the rows and columns that
            have any such position, so that padding changes nothing.

    Returns:
        Shape (B, size, size, C).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x):
        x = x.to(dtype)
        by_matrix = valid is not None or torch.are_deterministic_algorithms_enabled()
        if not (by_matrix or is_exported()):
            return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
        if valid is None:
            rows = _cells(torch.ones(1, x.shape[1], dtype=torch.bool, device=x.device), size)
            columns = _cells(torch.ones(1, x.shape[2], dtype=torch.bool, device=x.device), size)
            rows, columns = rows.to(dtype), columns.to(dtype)
            rows = rows / rows.sum(dim=-1, keepdim=True)
            columns = columns / columns.sum(dim=-1, keepdim=True)
            return torch.einsum("kh,bhwc,lw->bklc", rows[0], x, columns[0])
        rows, columns = _cells(valid.any(2), size).to(dtype), _cells(valid.any(1), size).to(dtype)
        weight = valid.to(dtype)
        total = torch.einsum("bkh,bhwc,blw->bklc", rows, x * weight.unsqueeze(-1), columns)
        count = torch.einsum("bkh,bhw,blw->bkl", rows, weight, columns)
        return total / count.clamp(min=1).unsqueeze(-1)


def _cells(used: Tensor, size: int) -> Tensor:
    """Which of the used rows are in a cell, shape (B, size, H), as adaptive pooling divides."""
    place = used.cumsum(dim=1) - 1
    number = used.sum(dim=1, keepdim=True)
    cell = torch.arange(size, device=used.device)
    first = (cell * number).div(size, rounding_mode="floor").unsqueeze(2)
    last = ((cell + 1) * number + size - 1).div(size, rounding_mode="floor").unsqueeze(2)
    place, used = place.unsqueeze(1), used.unsqueeze(1)
    return used & (place >= first) & (place < last)
