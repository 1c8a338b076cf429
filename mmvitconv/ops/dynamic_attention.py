"""Attention with other activations than softmax: a dynamic kernel over keys for each query.

Scores are activated, optionally normalised over the keys before or after, divided by a power of the
number of keys, and multiplied with the values (sections 1 and 4 of the specification; the design
follows the abstract of arXiv:2309.10713 and is ours).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmvitconv.ops.traced import is_traced

ACTIVATIONS = ("softmax", "relu", "relu2", "gelu", "sigmoid", "softplus", "identity")
_EPS = 1e-5
# An image's scores beyond this are computed for some queries at a time, with so many bytes for all
# images, and again for the gradient.
_MAX_SCORES_BYTES = 16 * 2**20
# From so many keys on, the rows' statistics come from the keys' covariance instead of the scores.
_MIN_KEYS_FOR_COVARIANCE = 512


@dataclass(frozen=True)
class Activation:
    """What happens to the scores of a query.

    Args:
        act: One of ``ACTIVATIONS``.
        norm: Standardise each row over its valid keys, in float32: ``'pre'`` before the activation,
            ``'post'`` after it, or None.
        count_power: Rows are divided by this power of the number n of valid keys; ``'l1'`` divides
            by the row's sum; ``'auto'`` keeps the sum of a row near 1: ``sqrt(2 pi) / n`` for a
            standardised ReLU, ``1 / n`` for the others, nothing for softmax, and ``-log n`` inside
            of a sigmoid.
        drop_rate: Dropout of the activated scores.
    """

    act: str = "softmax"
    norm: str | None = None
    count_power: float | str = "auto"
    drop_rate: float = 0.0


def dynamic_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    activation: Activation,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    valid: Tensor | None = None,
    query_chunk: int | str | None = "auto",
) -> Tensor:
    """``activate(q k^T / sqrt(d) + bias) v`` for each head.

    Args:
        q: Queries, shape (B, h, L, d).
        k: Keys, shape (B, h, S, d).
        v: Values, shape (B, h, S, d).
        activation: What happens to the scores.
        gamma: Factor behind the norm, shape (h, 1, 1) or (h, 1, S).
        beta: Summand behind the norm, of gamma's shape.
        bias: Added to the scores, shape (h, L, S) or one that broadcasts to (B, h, L, S).
        valid: Which keys a query sees, boolean, of a shape that broadcasts to (B, h, L, S). The
            others count nowhere; a query without any gets zeros.
        query_chunk: How many queries are computed at a time, so that memory grows with it instead
            of with L; their scores are computed again for the gradient. ``'auto'`` takes all up to
            16 MiB of scores for an image (2048 x 2048 of one head); None always takes all.

    Returns:
        Tensor of shape (B, h, L, d) in v's dtype.
    """
    if activation.act == "softmax" and activation.norm is None:
        return _softmax_attention(q, k, v, activation, bias, valid)
    arguments = (k, v, activation, gamma, beta)
    length = q.shape[2]
    chunk = _chunk_length(q, k, query_chunk)
    if chunk >= length:
        return _rows(q, *arguments, bias, valid)
    outs = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        row_arguments = [
            t if t is None or t.shape[-2] == 1 else t[..., start:stop, :] for t in (bias, valid)
        ]
        part = (q[:, :, start:stop], *arguments, *row_arguments)
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in part):
            outs.append(checkpoint(_rows, *part, use_reentrant=False))
        else:
            outs.append(_rows(*part))
    return torch.cat(outs, dim=2)


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


def _softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    activation: Activation,
    bias: Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    mask = bias
    if valid is not None:
        # A query without keys would be divided by zero; it sees all and is cleared afterwards.
        sees_any = valid.any(dim=-1, keepdim=True)
        mask = valid | ~sees_any
        if bias is not None:
            mask = bias.masked_fill(~mask, -math.inf)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
        if not torch.is_grad_enabled():
            mask = mask.detach()  # else torch takes another kernel than without gradients
    needs_mask_grad = mask is not None and mask.requires_grad and torch.is_grad_enabled()
    if q.device.type == "cpu" and needs_mask_grad and activation.drop_rate == 0:
        # torch's CPU kernel has no gradient for the bias; its substitute is slower than this.
        out = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + mask).softmax(dim=-1) @ v
    else:
        mask = mask if mask is None or mask.dim() == 4 else mask.expand(1, *mask.shape)
        out = F.scaled_dot_product_attention(q, k, v, mask, activation.drop_rate)
    return out if valid is None else out * sees_any.to(out.dtype)


def _rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    activation: Activation,
    gamma: Tensor | None,
    beta: Tensor | None,
    bias: Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    """All of some queries' rows at once."""
    scale = q.shape[-1] ** -0.5
    if (
        activation.norm == "pre"
        and bias is None
        and valid is None
        and k.shape[2] >= _MIN_KEYS_FOR_COVARIANCE
        and not (q.is_meta or is_traced())
    ):
        scores = _standardised_by_covariance(q, k, gamma, beta)
        weights = activate(scores, activation, normed=True)
    else:
        scores = (q * scale) @ k.transpose(2, 3)
        scores = scores if bias is None else scores + bias
        weights = activate(scores, activation, gamma, beta, valid)
    return weights.to(v.dtype) @ v


def _standardised_by_covariance(
    q: Tensor, k: Tensor, gamma: Tensor | None, beta: Tensor | None
) -> Tensor:
    """``gamma * standardised(q k^T / sqrt(d)) + beta`` without a pass over the scores for it.

    The mean of a row is the query times the mean key, and its variance the query's product with the
    covariance of the keys. So a row is one affine function of the scores, which moves into q.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
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
    activation: Activation,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    valid: Tensor | None = None,
    normed: bool = False,
) -> Tensor:
    """The weights of the values from the scores, along the last axis.

    Args:
        scores: Shape (..., S).
        activation: What happens to them.
        gamma: Factor behind the norm, of a shape that broadcasts.
        beta: Summand behind the norm, of a shape that broadcasts.
        valid: Which keys count, boolean, of a shape that broadcasts.
        normed: The scores are standardised already.

    Returns:
        Shape of ``scores``.
    """
    act, norm = activation.act, activation.norm
    count: Tensor | int = scores.shape[-1]
    if valid is not None:
        count = valid.expand(*valid.shape[:-1], scores.shape[-1]).sum(-1, keepdim=True).clamp(min=1)
    if norm == "pre" and not normed:
        scores = _standardise(scores, gamma, beta, valid, count)
    if act == "softmax":
        weights = _softmax(scores, valid)
    elif act == "sigmoid":
        shift = count.to(scores.dtype).log() if isinstance(count, Tensor) else math.log(count)
        weights = (scores - shift).sigmoid()
    else:
        weights = ELEMENTWISE[act](scores)
    if norm == "post":
        weights = _standardise(weights, gamma, beta, valid, count)
    if valid is not None:
        weights = weights.masked_fill(~valid, 0.0)
    weights = _divide(weights, activation, count)
    if activation.drop_rate > 0:
        weights = F.dropout(weights, activation.drop_rate)
    return weights


# Those that need no axis of keys.
ELEMENTWISE = {
    "relu": torch.relu,
    "relu2": lambda s: torch.relu(s).square(),
    "gelu": F.gelu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "identity": lambda s: s,
}


def _softmax(scores: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return scores.softmax(dim=-1)
    sees_any = valid.any(dim=-1, keepdim=True)
    return scores.masked_fill(~valid & sees_any, -math.inf).softmax(dim=-1)


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


def _divide(weights: Tensor, activation: Activation, count: Tensor | int) -> Tensor:
    power = activation.count_power
    if power == "l1":
        return weights / (weights.abs().sum(dim=-1, keepdim=True) + 1e-6)
    standardised_relu = activation.norm == "pre" and activation.act == "relu"
    if power == "auto":
        power = 0 if activation.act in ("softmax", "sigmoid") else 1
    factor = math.sqrt(2 * math.pi) if standardised_relu else 1.0
    if isinstance(count, Tensor):
        return weights * (factor * count.to(weights.dtype) ** -power)
    return weights * (factor * count**-power)
