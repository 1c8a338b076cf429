"""Global pooling with dropout."""

import pytest
import torch
from mmengine.registry import MODELS

from mmvitconv.models.necks.pooling import GlobalPooling


def test_means_of_maps():
    torch.manual_seed(0)
    maps = (torch.randn(2, 5, 3, 4), torch.randn(2, 7, 1, 1))
    neck = MODELS.build({"type": "mmvitconv.GlobalPooling"})
    assert isinstance(neck, GlobalPooling)
    assert not neck.state_dict()
    for x, y in zip(maps, neck(maps), strict=True):
        torch.testing.assert_close(y, x.mean(dim=(2, 3)))


def test_dropout_while_training():
    torch.manual_seed(0)
    neck = GlobalPooling(dropout_rate=0.2).train()
    (y,) = neck((torch.ones(100, 200, 2, 2),))
    assert set(y.unique().tolist()) == {0.0, 1.25}, "what is left is scaled up"
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    (y,) = neck.eval()((torch.ones(2, 3, 2, 2),))
    assert torch.equal(y, torch.ones(2, 3))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_wrong_rate(rate: float):
    with pytest.raises(ValueError, match=f"dropout_rate must be .*, got {rate}"):
        GlobalPooling(rate)


@pytest.mark.parametrize("shape", [(2, 5), (2, 9, 5), (2, 5, 1, 3, 3)])
def test_only_maps(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"takes maps of shape \(B, C, H, W\), but got"):
        GlobalPooling()((torch.zeros(2, 5, 3, 3), torch.zeros(shape)))
