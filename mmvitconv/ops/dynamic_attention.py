"""Attention as a dynamic convolution: an activated kernel over keys for each query.

Scores are activated, optionally normalised over the keys before or after, divided by a power of the
number of keys, and multiplied with the values (docs/specs/dynconv.md#1-interpretation,
#4-norm-and-relu; the design follows the abstract of arXiv:2309.10713 and is ours).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmvitconv.ops.precision import without_autocast
from mmvitconv.ops.traced import as_one_node, is_traced, is_transformed

__all__ = [
    "ACTIVATIONS",
    "ELEMENTWISE",
    "Activation",
    "activate",
    "depthwise_head_attention",
    "dynamic_attention",
    "norm_heads",
    "token_norm_attention",
]

# The activations that need no axis of keys.
ELEMENTWISE = {
    "relu": torch.relu,
    "relu2": lambda s: torch.relu(s).square(),
    "gelu": F.gelu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "identity": lambda s: s,
}
ACTIVATIONS = ("softmax", *ELEMENTWISE)
_EPS = 1e-5
_OUT_EPS = 1e-6
# Beyond this size of one image's scores, queries are computed in chunks whose scores take this much
# for the whole batch, and computed again in the backward pass.
_MAX_SCORES_BYTES = 16 * 2**20
# From this many keys on, the rows' statistics come from the keys' covariance instead of the scores.
_MIN_KEYS_FOR_COVARIANCE = 512
# Attention to up to so many keys in bfloat16 takes half of the time by products and a softmax: a
# window of 49, or 64, against whole images of 197.
_FEW_KEYS = 64


@dataclass(frozen=True)
class Activation:
    """What happens to the scores of a query, and to the sum over its values.

    Args:
        act: One of ``ACTIVATIONS``.
        norm: Standardise each row over its valid keys, in float32: ``'pre'`` before the activation,
            ``'post'`` after it, or None. Not with softmax.
        count_power: Rows are divided by this power of the number n of valid keys; ``'l1'`` divides
            by the row's sum; ``'auto'``, the only choice for softmax, keeps the sum of a row near
            1: ``sqrt(2 pi) / n`` for a standardised ReLU, ``1 / n`` for the others, nothing for
            softmax, and ``-log n`` inside a sigmoid.
        out_norm: ``'rms'`` or ``'ln'`` normalises each head's output; None leaves it.

    Raises:
        ValueError: An unknown value, or softmax with a norm or a power of the count.
    """

    act: str = "softmax"
    norm: str | None = None
    count_power: float | str = "auto"
    out_norm: str | None = None

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("act", self.act, ACTIVATIONS),
            ("norm_pos", self.norm, (None, "pre", "post")),
            ("out_norm", self.out_norm, (None, "rms", "ln")),
        ):
            if value not in legal:
                raise ValueError(f"{name} must be one of {legal}, got {value!r}")
        power = self.count_power
        if power not in ("auto", "l1") and not isinstance(power, (int, float)):
            raise ValueError(f"count_power must be 'auto', 'l1' or a number, got {power!r}")
        if self.act == "softmax" and self.norm:
            raise ValueError("softmax normalises over the keys already: it takes no norm='ln_key'")
        if self.act == "softmax" and power != "auto":
            raise ValueError(f"the rows of softmax sum to 1: it takes no count_power={power!r}")

    def factor(self, count: Tensor | int, dtype: torch.dtype) -> Tensor | float:
        """Return what a row of ``count`` keys is multiplied by (not for ``'l1'``)."""
        power, is_softmax = self.count_power, self.act in ("softmax", "sigmoid")
        power = power if power != "auto" else 0 if is_softmax else 1
        mean_one = math.sqrt(2 * math.pi) if self.norm == "pre" and self.act == "relu" else 1.0
        count = count.to(dtype) if isinstance(count, Tensor) else count
        return mean_one * count**-power


@as_one_node
def dynamic_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Activation,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    valid: Tensor | None = None,
    drop_rate: float = 0.0,
    query_chunk: int | str | None = "auto",
) -> Tensor:
    """Compute ``activate(q k^T / sqrt(d) + bias) v`` for each head.

    Args:
        q: Queries, shape (B, h, L, d).
        k: Keys, shape (B, h, S, d).
        v: Values, shape (B, h, S, d).
        rule: What happens to the scores.
        gamma: Factor after the norm, shape (h, 1, 1) or (h, 1, S).
        beta: Bias after the norm, of gamma's shape.
        bias: Added to the scores, shape (h, L, S) or one that broadcasts to (B, h, L, S).
        valid: Which keys a query sees, boolean, of a shape that broadcasts to (B, h, L, S). The
            others count nowhere; a query without any gets zeros.
        drop_rate: Dropout of the activated scores, in [0, 1).
        query_chunk: How many queries are computed at a time, so that memory grows with it instead
            of with L; their scores are computed again for the gradient. ``'auto'`` takes all up to
            16 MiB of scores for an image (2048 x 2048 of one head); None always takes all.

    Returns:
        Tensor of shape (B, h, L, d) in v's dtype.
    """
    if rule.out_norm and q.dtype == torch.float16:
        # Sums over many keys leave float16 before the norm brings them back.
        with without_autocast(q):
            q, k, v = q.float(), k.float(), v.float()
            options = (rule, gamma, beta, bias, valid, drop_rate, query_chunk)
            return dynamic_attention(q, k, v, *options).half()
    # torch's CPU kernel has no gradient for the bias, and no forward-mode one for anything; its
    # substitute is slower than rows by hand. A trace must not depend on whether gradients are on.
    learns = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    learns = learns and q.device.type == "cpu" and not torch.jit.is_tracing()
    by_rows = learns or is_transformed() or _is_faster_by_rows(q, k)
    if rule.act == "softmax" and (drop_rate > 0 or not by_rows):
        return norm_heads(_fused_softmax(q, k, v, bias, valid, drop_rate), rule)
    length = q.shape[2]
    chunk = _chunk_length(q, k, query_chunk)
    if chunk >= length:
        return norm_heads(_rows(q, k, v, rule, gamma, beta, bias, valid, drop_rate), rule)
    outs = []
    for start in range(0, length, chunk):
        rows = slice(start, start + chunk)
        parts = (t if t is None or t.shape[-2] == 1 else t[..., rows, :] for t in (bias, valid))
        part = (q[:, :, rows], k, v, rule, gamma, beta, *parts, drop_rate)
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in part):
            outs.append(checkpoint(_rows, *part, use_reentrant=False))
        else:
            outs.append(_rows(*part))
    return norm_heads(torch.cat(outs, dim=2), rule)


def _is_faster_by_rows(q: Tensor, k: Tensor) -> bool:
    """Whether a window's keys are too few for the blocks of torch's CPU kernel in bfloat16."""
    is_small = q.dtype == torch.bfloat16 and k.shape[2] <= _FEW_KEYS
    return is_small and q.device.type == "cpu" and not is_traced()


def _chunk_length(q: Tensor, k: Tensor, query_chunk: int | str | None) -> int:
    batch, heads, length, _ = q.shape
    if query_chunk is None or q.is_meta or is_traced():
        return length
    if query_chunk != "auto":
        return query_chunk
    row = heads * k.shape[2] * 4
    if row * length <= _MAX_SCORES_BYTES:
        return length
    return max(_MAX_SCORES_BYTES // (batch * row), 16)


def _fused_softmax(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, valid: Tensor | None, drop_rate: float
) -> Tensor:
    mask = bias
    if valid is not None:
        # A query without keys would be divided by zero; it sees all and is cleared afterwards.
        sees_any = valid.any(dim=-1, keepdim=True)
        mask = valid | ~sees_any
        mask = mask if bias is None else bias.masked_fill(~mask, -math.inf)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
        if not (torch.is_grad_enabled() or torch.jit.is_tracing()):
            mask = mask.detach()  # else torch takes another kernel than without gradients
    mask = mask if mask is None or mask.dim() == 4 else mask.expand(1, *mask.shape)
    out = F.scaled_dot_product_attention(q, k, v, mask, drop_rate)
    return out if valid is None else out * sees_any.to(out.dtype)


def norm_heads(y: Tensor, rule: Activation) -> Tensor:
    """Normalise each head's output (B, h, L, d) over its channels, in at least float32."""
    if rule.out_norm is None:
        return y
    dtype = y.dtype
    y = y.to(torch.promote_types(dtype, torch.float32))
    if rule.out_norm == "ln":
        y = y - y.mean(dim=-1, keepdim=True)
    return (y * (y.square().mean(dim=-1, keepdim=True) + _OUT_EPS).rsqrt()).to(dtype)


def _rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Activation,
    gamma: Tensor | None,
    beta: Tensor | None,
    bias: Tensor | None,
    valid: Tensor | None,
    drop_rate: float,
) -> Tensor:
    """Compute all of some queries' rows at once: two dynamic 1x1 convolutions.

    See docs/specs/dynconv.md#1-interpretation.
    """
    by_covariance = rule.norm == "pre" and bias is None and valid is None and not q.is_meta
    if by_covariance and not is_traced() and k.shape[2] >= _MIN_KEYS_FOR_COVARIANCE:
        scores = _standardised_by_covariance(q, k, gamma, beta)
        weights = activate(scores, rule, normed=True, drop_rate=drop_rate)
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        scores = scores if bias is None else scores + bias
        weights = activate(scores, rule, gamma, beta, valid, drop_rate=drop_rate)
    return weights.to(v.dtype) @ v


def _standardised_by_covariance(
    q: Tensor, k: Tensor, gamma: Tensor | None, beta: Tensor | None
) -> Tensor:
    """``gamma * standardised(q k^T / sqrt(d)) + beta`` without a pass over the scores for it.

    The mean of a row is the query times the mean key, and its variance the query's product with the
    covariance of the keys. So a row is one affine function of the scores, which moves into q.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with without_autocast(q):
        keys = k.to(dtype)
        centred = keys - keys.mean(dim=2, keepdim=True)
        covariance = centred.transpose(2, 3) @ centred / keys.shape[2]
        queries = q.to(dtype) * q.shape[-1] ** -0.5
        variance = ((queries @ covariance) * queries).sum(dim=-1, keepdim=True).clamp(min=0)
        factor = (variance + _EPS).rsqrt()
        queries = queries * (factor if gamma is None else factor * gamma)
    # Centred keys have scores of mean zero, so that nothing cancels in half precision.
    scores = queries.to(q.dtype) @ centred.to(q.dtype).transpose(2, 3)
    return scores if beta is None else scores + beta.to(scores.dtype)


def activate(
    scores: Tensor,
    rule: Activation,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    valid: Tensor | None = None,
    normed: bool = False,
    drop_rate: float = 0.0,
) -> Tensor:
    """Turn scores into the weights of the values, along the last axis.

    Args:
        scores: Shape (..., S).
        rule: What happens to them.
        gamma: Factor after the norm, of a shape that broadcasts.
        beta: Bias after the norm, of a shape that broadcasts.
        valid: Which keys count, boolean, of a shape that broadcasts.
        normed: The scores are standardised already.
        drop_rate: Dropout of the weights, in [0, 1).

    Returns:
        Shape of ``scores``.
    """
    count: Tensor | int = scores.shape[-1]
    if valid is not None:
        count = valid.expand(*valid.shape[:-1], scores.shape[-1]).sum(-1, keepdim=True).clamp(min=1)
    if rule.norm == "pre" and not normed:
        scores = _standardise(scores, gamma, beta, valid, count)
    if rule.act == "softmax":
        if valid is not None:
            scores = scores.masked_fill(~valid & valid.any(dim=-1, keepdim=True), -math.inf)
        weights = scores.softmax(dim=-1)
    elif rule.act == "sigmoid":
        shift = count.to(scores.dtype).log() if isinstance(count, Tensor) else math.log(count)
        weights = (scores - shift).sigmoid()
    else:
        weights = ELEMENTWISE[rule.act](scores)
    if rule.norm == "post":
        weights = _standardise(weights, gamma, beta, valid, count)
    if valid is not None:
        weights = weights.masked_fill(~valid, 0.0)
    if rule.count_power == "l1":
        weights = weights / (weights.abs().sum(dim=-1, keepdim=True) + 1e-6)
    else:
        weights = weights * rule.factor(count, weights.dtype)
    return F.dropout(weights, drop_rate) if drop_rate > 0 else weights


def _standardise(
    scores: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    valid: Tensor | None,
    count: Tensor | int,
) -> Tensor:
    """Mean 0 and variance 1 over the valid keys, in float32 whatever autocast says."""
    dtype = scores.dtype
    scores = scores.to(torch.promote_types(dtype, torch.float32))
    if valid is None:
        variance, mean = torch.var_mean(scores, dim=-1, keepdim=True, correction=0)
    else:
        mean = scores.masked_fill(~valid, 0.0).sum(dim=-1, keepdim=True) / count
        variance = (scores - mean).masked_fill(~valid, 0.0).square().sum(-1, keepdim=True) / count
    scores = (scores - mean) * (variance + _EPS).rsqrt()
    scores = scores if gamma is None else scores * gamma
    return (scores if beta is None else scores + beta).to(dtype)


@as_one_node
def token_norm_attention(
    q: Tensor, k: Tensor, v: Tensor, order: int, valid: Tensor | None = None
) -> Tensor:
    """Multiply ``q k^T v`` in the cheaper order, q and k divided by their norm over the tokens.

    Args:
        q: Queries, shape (B, h, N, d).
        k: Keys, of q's shape.
        v: Values, of q's shape.
        order: 1 for the L1 norm, 2 for the L2 norm.
        valid: Which tokens count, boolean, shape (B, N), or None.

    Returns:
        Tensor of q's shape and dtype.
    """
    dtype = q.dtype
    with without_autocast(q):  # sums over tokens
        q, k, v = (t.to(torch.promote_types(dtype, torch.float32)) for t in (q, k, v))
        if valid is not None:
            q, k = (t.masked_fill(~valid[:, None, :, None], 0.0) for t in (q, k))
        q, k = (F.normalize(t, p=order, dim=2, eps=_OUT_EPS) for t in (q, k))
        if q.shape[2] > q.shape[3]:
            return (q @ (k.transpose(2, 3) @ v)).to(dtype)
        return ((q @ k.transpose(2, 3)) @ v).to(dtype)


def depthwise_head_attention(
    q: Tensor, k: Tensor, v: Tensor, act: str = "relu", valid: Tensor | None = None
) -> Tensor:
    """Attention with one head per channel, in linear time: ``relu(ab)`` of numbers factorises.

    Args:
        q: Queries, shape (B, N, C).
        k: Keys, of q's shape.
        v: Values, of q's shape.
        act: ``'relu'`` or ``'identity'``.
        valid: Which tokens count, boolean, shape (B, N), or None.

    Returns:
        The mean over r of ``act(q(p) k(r)) v(r)``, of q's shape and dtype.
    """
    dtype = q.dtype
    q, k, v = (t.to(torch.promote_types(dtype, torch.float32)) for t in (q, k, v))
    count: Tensor | int = q.shape[1]
    if valid is not None:
        v = v * valid.unsqueeze(-1)
        count = valid.sum(dim=1).clamp(min=1).view(-1, 1, 1)
    if act == "identity":
        return (q * ((k * v).sum(dim=1, keepdim=True) / count)).to(dtype)
    positive = (k.relu() * v).sum(dim=1, keepdim=True) / count
    negative = ((-k).relu() * v).sum(dim=1, keepdim=True) / count
    return (q.relu() * positive + (-q).relu() * negative).to(dtype)
