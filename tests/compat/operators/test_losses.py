"""Focal losses against loops."""

import math

import numpy as np
import pytest
import torch
from mmcv import ops
from operator_inputs import features


def loop_sigmoid_focal_loss(logits, target, gamma, alpha, weight):
    out = np.zeros(logits.shape)
    for n, row in enumerate(logits):
        for c, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            if target[n] == c:
                out[n, c] = -alpha * (1 - p) ** gamma * math.log(p)
            else:
                out[n, c] = -(1 - alpha) * p**gamma * math.log(1 - p)
            if weight is not None and 0 <= target[n] < logits.shape[1]:
                out[n, c] *= weight[target[n]]
    return out


TARGETS = torch.tensor([0, 3, 4, 2, -1])  # 4 classes: 4 and -1 are background


def loop_softmax_focal_loss(logits, target, gamma, alpha, weight):
    out = np.zeros(len(target))
    for n, (row, label) in enumerate(zip(logits, target, strict=True)):
        if label >= 0:
            p = math.exp(row[label]) / sum(math.exp(x) for x in row)
            factor = 1 if weight is None else weight[label]
            out[n] = -alpha * factor * (1 - p) ** gamma * math.log(p)
    return out


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9), (1.0, 1.0)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("function", "loop", "target"),
    [
        (ops.sigmoid_focal_loss, loop_sigmoid_focal_loss, TARGETS),
        (ops.softmax_focal_loss, loop_softmax_focal_loss, torch.tensor([0, 3, 1, 2, -1])),
    ],
    ids=["sigmoid", "softmax"],
)
def test_focal_loss(function, loop, target, gamma, alpha, weighted):
    logits = features(5, 4, dtype=torch.float64).requires_grad_()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    out = function(logits, target, gamma, alpha, weight, "none")
    expected = loop(logits.detach().numpy(), target.tolist(), gamma, alpha, weight)
    assert out.detach().numpy() == pytest.approx(expected, abs=1e-12)
    # mmcv's softmax_focal_loss has a gradient for sums only.
    alone = ("none",) if function is ops.sigmoid_focal_loss else ()
    for reduction in (*alone, "mean", "sum"):
        arguments = (target, gamma, alpha, weight, reduction)
        assert torch.autograd.gradcheck(lambda x, rest=arguments: function(x, *rest), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sigmoid_focal_loss_stays_finite(dtype):
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], dtype=dtype).requires_grad_()
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1, 2]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.dtype == dtype
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_focal_losses_without_rows():
    for function in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        logits = torch.zeros(0, 4, requires_grad=True)
        function(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum").backward()
        assert logits.grad.shape == (0, 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_focal_loss_of_a_certain_class_is_finite(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = ops.softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 1.0, None, "sum")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
