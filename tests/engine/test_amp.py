import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmvitconv.engine import CPUAmpOptimWrapper
from mmvitconv.errors import UserError


def test_forward_is_bfloat16_and_weights_stay_float32() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build({"type": "CPUAmpOptimWrapper", "optimizer": optimizer})
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        outputs = model(torch.rand(3, 4))
    assert outputs.dtype is torch.bfloat16
    wrapper.update_params(outputs.float().sum())
    assert model.weight.dtype is torch.float32
    assert not torch.equal(model.weight, before)
    assert model(torch.rand(3, 4)).dtype is torch.float32


def test_other_precision_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"bfloat16.* only, got 'float16'"):
        CPUAmpOptimWrapper(dtype="float16", optimizer=optimizer)
