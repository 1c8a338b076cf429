"""Models in 8 bits: near the float ones, quantised once for all sizes, kept by their data."""

import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES, shallow
from torch import Tensor, nn

from mmvitconv.errors import UserError
from mmvitconv.export.subject import fill_statistics
from mmvitconv.models import ConvMixer
from mmvitconv.runtime import accelerate, graphs, networks, openvino

TINY = {"embed_dims": 32, "depth": 1, "kernel_size": 3, "patch_size": 5}


@pytest.fixture(autouse=True, scope="module")
def _graphs(tmp_path_factory: pytest.TempPathFactory):
    """A cache of graphs that this module shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMVITCONV_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def images(seed: int = 0, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 3, 45, 60, generator=generator) for _ in range(count)]


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return model(x)


def noise(outs, expected) -> float:
    """The largest root mean square of an error, in parts of that of the map."""
    assert [out.shape for out in outs] == [right.shape for right in expected]
    return max(
        float((out - right).norm() / right.norm())
        for out, right in zip(outs, expected, strict=True)
    )


def bound(model: nn.Module) -> float:
    """The noise that rounding to 8 bits makes.

    A tensor that spans eight standard deviations in 255 steps gets uniform errors of 8 / 255 /
    sqrt(12) of one, 0.9 %. Each layer rounds two, input and weights, whose errors are independent.
    Twice that, for ranges that are wider and for maps that are smaller than what goes into them.
    """
    layers = sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in model.modules())
    return 2 * (8 / 255 / 12**0.5) * (2 * layers) ** 0.5


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = ConvMixer(TINY, out_indices=(0,)).eval()
    fill_statistics(model)
    return model


@pytest.fixture
def quantisations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of calls whenever a graph is quantised."""
    found: list[int] = []
    quantise = openvino.quantise

    def counting(path, out, inputs) -> None:
        found.append(len(inputs))
        quantise(path, out, inputs)

    monkeypatch.setattr(openvino, "quantise", counting)
    return found


@pytest.mark.parametrize("name", ["ConvMixer", "DynConvViT"])
def test_one_quantised_graph_takes_all_sizes(name: str, quantisations):
    torch.manual_seed(0)
    model = FAMILIES[name](shallow(name)).eval()
    fill_statistics(model)
    # OpenVINO has no matrix products where oneDNN is told to use less than the CPU has (cpus.py).
    can = any(vars(accelerate(model))["forward"]._graphs.values())
    fast = accelerate(model, precision="int8", calibration=iter(images()))
    assert quantisations == [4] * can
    for height, width in ((45, 60), (71, 50), (130, 96)):
        x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        assert 1e-4 * can <= noise(run(fast, x), run(model, x)) < bound(model)
    assert quantisations == [4] * can
    graphs = list(filter(None, vars(fast)["forward"]._graphs.values()))
    assert ["FakeQuantize" in graph.path.read_text() for graph in graphs] == [True] * can
    assert not logging.getLoggerClass().__module__.startswith("nncf")
    assert "NNCF_CI" not in os.environ


def test_graphs_are_kept_by_weights_and_calibration_data(quantisations):
    model = tiny()
    fast = accelerate(model, precision="int8", calibration=images())
    x = torch.randn(1, 3, 40, 40)
    expected = run(fast, x)
    again = accelerate(model, precision="int8", calibration=images())
    assert len(quantisations) == 1
    assert all(map(torch.equal, run(again, x), expected))
    accelerate(model, precision="int8", calibration=images(seed=1))
    assert len(quantisations) == 2
    accelerate(tiny(seed=1), precision="int8", calibration=images())
    assert len(quantisations) == 3


def test_a_pickled_model_finds_its_graphs_or_says_that_it_runs_in_fp32(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    model, x = tiny(), torch.randn(1, 3, 40, 40)
    fast = accelerate(model, precision="int8", calibration=images())
    recipe, expected = pickle.dumps(fast), run(fast, x)
    assert all(map(torch.equal, run(pickle.loads(recipe), x), expected))
    shutil.rmtree(tmp_path)
    with pytest.warns(UserWarning, match="has no graph of any size in int8 here, so it runs in"):
        outs = run(pickle.loads(recipe), x)
    assert noise(outs, run(model, x)) < 1e-5


class Whole(nn.Module):
    """Takes batches as a data loader gives them; its head is not always reached."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(3, 8, 3)
        self.neck = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.bbox_head = nn.Conv2d(8, 8, 1)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.backbone(x))
        return self.bbox_head(x) if x.amax() > self.threshold else x

    def test_step(self, data: dict) -> Tensor:
        return self(torch.stack(data["inputs"]))


@pytest.mark.parametrize("threshold", [-1e9, 1e9])
def test_parts_are_quantised_by_what_reaches_them(threshold: float, quantisations, recwarn):
    model = Whole(threshold).eval()
    batches = [{"inputs": list(x)} for x in images()]
    fast = accelerate(model, precision="int8", calibration=batches)
    texts = [str(w.message) for w in recwarn if "accelerate" in str(w.message)]
    if threshold < 0:
        assert (quantisations, texts) == ([4, 4, 4], [])
    else:
        assert quantisations == [4, 4]
        (text,) = texts
        assert "bbox_head (Conv2d) stays in fp32 (ValueError: no calibration image reaches" in text
    fast.threshold = -1e9
    x = torch.randn(2, 3, 50, 50)
    model.threshold = -1e9
    assert 1e-4 < noise([run(fast, x)], [run(model, x)]) < bound(model)


def test_what_loses_too_much_stays_in_fp32(monkeypatch, tmp_path):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    monkeypatch.setitem(graphs.TOLERANCE, "int8", 1e-4)
    model, x = tiny(), torch.randn(1, 3, 40, 40)
    with pytest.warns(UserWarning, match=r"\(ConvMixer\) stays in fp32 .* differs by .*e-0"):
        fast = accelerate(model, precision="int8", calibration=images())
    assert noise(run(fast, x), run(model, x)) < 1e-5
    later = accelerate(model, precision="int8", calibration=images())
    assert noise(run(later, x), run(model, x)) < 1e-5
    assert not list(tmp_path.rglob("*.xml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "from images, and there are none; give calibration="),
        ({"calibration": []}, "from images, and there are none; give calibration="),
        ({"calibration": [torch.randn(1, 4, 8, 8)]}, r"does not take the calibration data \(Val"),
        ({"calibration": [{"inputs": [1]}]}, r"does not take the calibration data \(Attr"),
        ({"runtime": "onnxruntime"}, "give fp32, or one of the runtimes openvino"),
    ],
)
def test_what_cannot_be_had(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        accelerate(tiny(), **{"precision": "int8", **options})


def test_without_nncf(monkeypatch):
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'int8' needs nncf; run: pip install nncf"):
        accelerate(tiny(), precision="int8", calibration=images())
    assert accelerate(tiny(), precision="fp32") is not None


def test_few_inputs_are_kept_of_large_images(monkeypatch, quantisations, tmp_path: Path):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "MOST_RECORDED", 2 * images()[0].nbytes)
    accelerate(tiny(), precision="int8", calibration=images())
    assert quantisations == [2]
