"""A trial that leaves no trace."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from torch import nn

from mmvitconv.checks.untouched import untouched


class Cached(BaseTransform):
    """Keeps what it has seen, as mosaics do."""

    def __init__(self):
        self.seen = deque([1, 2], maxlen=3)
        self.inner = [{"count": [0]}]

    def transform(self, results):
        self.seen.append(results["number"])
        self.inner[0]["count"][0] += 1
        self.more = True
        return results


class Data(BaseDataset):
    def load_data_list(self):
        return [{"number": number} for number in range(4)]


class Model(nn.Module):
    """Changes everything that a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 3)
        self.average = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.history, self.names, self.iteration = [], {"a"}, 0
        self.plain = torch.zeros(2)
        self.array = np.zeros(2)
        self.expanded = torch.zeros(1).expand(4)

    def forward(self, x):
        y = torch.nn.functional.dropout(self.linear(self.norm(x)))
        y.sum().backward()
        with torch.no_grad():
            self.linear.weight.mul_(2)
            self.average.data.add_(1)
            self.plain += torch.rand(2)
        self.step += 1
        self.history.append(float(y.sum()))
        self.names.add("b")
        self.array += np.random.rand(2)
        self.iteration += random.random()
        self.new = 1
        self.register_buffer("late", torch.ones(1))
        self.linear.register_forward_hook(print)
        self.linear.eval()
        return y


def state(model, data):
    random_states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    return repr(
        (
            random_states,
            {key: value.tolist() for key, value in model.state_dict().items()},
            {name: sorted(vars(module)) for name, module in model.named_modules()},
            [(len(m._forward_hooks), m.training) for m in model.modules()],
            [(p.grad, p.requires_grad) for p in model.parameters()],
            (model.history, model.names, model.iteration, model.plain, model.array),
            [vars(step) for step in data.pipeline.transforms],
            data.pipeline.transforms[0].seen.maxlen,
        )
    )


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left(fails):
    model, data = Model(), Data(pipeline=[Cached()], serialize_data=False)
    identities = [id(p) for p in model.parameters()], id(model.history), id(model._buffers)
    before = state(model, data)

    def attempt():
        with untouched(model, data):
            model(torch.rand(4, 3))
            data[2]
            assert state(model, data) != before
            if fails:
                raise KeyError("x")

    if fails:
        with pytest.raises(KeyError):
            attempt()
    else:
        attempt()
    assert state(model, data) == before
    assert identities == (
        [id(p) for p in model.parameters()], id(model.history), id(model._buffers)
    )  # fmt: skip


def test_gradients_stay():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    gradient = model.weight.grad
    with untouched(model):
        model(torch.ones(1, 2)).sum().backward()
        model.zero_grad()
    assert model.weight.grad is gradient
    assert gradient.tolist() == [[1, 1]]
