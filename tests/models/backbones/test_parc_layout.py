"""ParC families on CPUs: one memory layout from the images to the outputs."""

import pytest
import torch
from families import FAMILIES, shallow
from torch.profiler import profile

from mmvitconv.ops import circular_conv
from mmvitconv.ops.circular_conv import rules
from mmvitconv.runtime import fold

BATCH = 3  # no weight has so many rows


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Rules that do not depend on the CPU, and two threads: with one torch avoids oneDNN."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(rules, "RULES", rules.rules_of("avx512"))
    rules.choose_form.cache_clear()
    yield
    rules.choose_form.cache_clear()
    torch.set_num_threads(threads)


def copied(call, *args) -> list[list[int]]:
    """Shapes of what torch copies into, hidden copies inside its operators included."""
    with torch.no_grad(), profile(record_shapes=True) as run:
        call(*args)
    return [event.input_shapes[0] for event in run.events() if event.name == "aten::copy_"]


@pytest.mark.parametrize("folds", [False, True], ids=["eager", "folded"])
@pytest.mark.parametrize("name", ["ParCConvNeXt", "ParCMobileNetV2", "ParCNet", "ParCResNet"])
def test_no_map_is_copied(name: str, folds: bool):
    model = FAMILIES[name](shallow(name)).eval()
    model = fold(model) if folds else model
    x = torch.randn(BATCH, 3, 96, 96)
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        outs = model(x)  # prepares what is kept for later calls
        for out, other in zip(outs, model(last), strict=True):
            torch.testing.assert_close(other, out)
    maps = [shape for shape in copied(model, last) if len(shape) == 4 and shape[0] == BATCH]
    assert maps == []
    # The images are copied once, and each output back into the layout of the images.
    maps = [shape for shape in copied(model, x) if len(shape) == 4 and shape[0] == BATCH]
    assert maps == [list(x.shape), *(list(out.shape) for out in outs)]


@pytest.mark.parametrize("axis", [2, 3])
def test_a_product_copies_an_image_once(axis: int):
    x = torch.randn(BATCH, 8, 40, 40).contiguous(memory_format=torch.channels_last)
    taps = torch.randn(8, 40)
    shapes = copied(circular_conv, x, taps, axis, None, "circulant")
    assert shapes.count([8, 40, 40]) + shapes.count([1, 8, 40, 40]) <= BATCH + 1  # the matrices
    assert len(shapes) <= BATCH + 2
