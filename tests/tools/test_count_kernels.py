"""What a GPU is asked to do: at most what the original asks of it."""

import runpy

import pytest
import torch
from families import FAMILIES
from processes import ROOT
from torch import nn

tool = runpy.run_path(str(ROOT / "tools/analysis_tools/count_kernels.py"))


@pytest.mark.parametrize("channels_last", [False, True], ids=["default", "channels_last"])
@pytest.mark.parametrize("trains", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_more_than_the_original(name: str, trains: bool, channels_last: bool):
    original, ours = tool["compare"](name, trains, channels_last)
    assert sum(ours.kernels.values()) <= sum(original.kernels.values())
    assert sum(ours.bytes.values()) <= sum(original.bytes.values())


@pytest.mark.parametrize("channels_last", [False, True], ids=["default", "channels_last"])
def test_a_class_token_costs_no_more_than_in_the_original(channels_last: bool):
    original, ours = tool["compare"]("DynConvViT with class token", False, channels_last)
    assert sum(ours.kernels.values()) <= sum(original.kernels.values())
    assert sum(ours.bytes.values()) <= sum(original.bytes.values())


def test_what_is_counted():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.GELU())
        x = torch.empty(5, 4)
    forward = tool["count"](model, x, trains=False)
    assert forward.kernels == {"addmm": 1, "gelu": 1}
    # bias, images, weight and output; then the map read and written
    assert forward.bytes == {"addmm": 4 * (6 + 20 + 24 + 30), "gelu": 4 * (30 + 30)}
    training = tool["count"](model, x, trains=True)
    assert training.kernels == {"addmm": 1, "gelu": 1, "gelu_backward": 1, "mm": 1, "sum": 1}


def test_models_believe_that_they_are_on_a_gpu():
    seen = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append((x.device.type, x.is_cuda, x.is_meta))
        return x + torch.zeros(3, device=x.device)

    model = nn.Identity()
    model.forward = forward
    tool["count"](model, torch.empty(2, 3, device="meta"), trains=False)
    assert seen == [("cuda", True, False)]
