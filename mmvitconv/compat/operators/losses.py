"""Focal losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvitconv.compat.operators.shared import widen


def _class_weights(weight: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the class weight (N,) of every target; 1 for background and where none are given."""
    if weight.numel() == 0:
        return torch.ones(len(target), dtype=dtype, device=target.device)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight.to(dtype)[target.clamp(0, len(weight) - 1)], 1)


def _is_target(target: Tensor, classes: int) -> Tensor:
    """Return the one-hot mask (N, classes); background (any other number) has no True."""
    return target[:, None] == torch.arange(classes, device=target.device)


def _sigmoid_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign (1 for the target class, -1 for others), logit of being right, and factor."""
    (logits,) = widen(input)
    one_hot = _is_target(target, input.shape[1]).to(logits.dtype)
    sign = 2 * one_hot - 1
    factor = alpha * one_hot + (1 - alpha) * (1 - one_hot)
    return sign, sign * logits, factor * _class_weights(weight, target, logits.dtype)[:, None]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` with the focal loss of independent classes.

    Args:
        input: Logits (N, C).
        target: Class (N,) from 0 to C - 1; every other number is background. int64.
        weight: Class weights (C,), or empty; background weighs 1.
        output: Filled: (N, C).
        gamma: Focusing exponent, 0 or more.
        alpha: Weight of the target class, 0 to 1; other classes weigh 1 - alpha.
    """
    _, right, factor = _sigmoid_terms(input, target, weight, alpha)
    output.copy_(-factor * right.neg().sigmoid().pow(gamma) * F.logsigmoid(right))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of :func:`sigmoid_focal_loss_forward`."""
    sign, right, factor = _sigmoid_terms(input, target, weight, alpha)
    wrong = right.neg().sigmoid()
    slope = wrong - gamma * (1 - wrong) * F.logsigmoid(right)
    grad_input.copy_(-sign * factor * wrong.pow(gamma) * slope)


def _target_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target's probability (N,), above 0, and the mask (N,) of valid targets."""
    (softmax,) = widen(softmax)
    chosen = softmax.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return chosen.clamp(min=torch.finfo(softmax.dtype).tiny), target >= 0


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N,) with the focal loss of exclusive classes.

    The arguments are those of :func:`sigmoid_focal_loss_forward`, except that the input holds
    probabilities, that a negative target ignores its row, and that alpha multiplies every loss.
    """
    chosen, valid = _target_probability(input, target)
    loss = -alpha * (1 - chosen).pow(gamma) * chosen.log()
    output.copy_(torch.where(valid, loss * _class_weights(weight, target, loss.dtype), 0))


def softmax_focal_loss_backward(*tensors: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``grad_input`` (N, C) with the derivative by the logits, and the buffer (N,)."""
    input, target, weight, buff, grad_input = tensors
    chosen, valid = _target_probability(input, target)
    other = 1 - chosen
    # For gamma < 1 the power of a probability of exactly 1 is infinite, but multiplied by log 1.
    slope = gamma * other.clamp(min=torch.finfo(other.dtype).tiny).pow(gamma - 1)
    scaled = alpha * (slope * chosen * chosen.log() - other.pow(gamma))
    scaled = torch.where(valid, scaled * _class_weights(weight, target, scaled.dtype), 0)
    buff.copy_(scaled)
    is_target = _is_target(target, input.shape[1]).to(scaled.dtype)
    grad_input.copy_(scaled[:, None] * (is_target - input.to(scaled.dtype)))
