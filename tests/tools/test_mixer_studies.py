"""The studies: the same start, batches and schedule for all mixers, and an honest report."""

import math
from pathlib import Path

import mixer_studies as studies
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmvitconv.errors import UserError
from mmvitconv.zoo.costs import count_complexity


@pytest.fixture(scope="module")
def digits(mnist_root: Path) -> studies.Digits:
    return studies.load_digits(100, cache_dir=mnist_root.parent / ".cache")


def test_digits_are_those_of_the_converter(mnist_root: Path):
    digits = studies.load_digits(cache_dir=mnist_root.parent / ".cache")
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    assert digits.train_images.shape == (4000, 1, 28, 28)
    torch.testing.assert_close(digits.train_images.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(digits.train_images.std(), torch.tensor(1.0), atol=1e-4, rtol=0)
    image = digits.test_images[digits.test_labels == 3][0, 0]
    grey = np.array(Image.open(sorted((mnist_root / "val" / "3").glob("*.png"))[0]))
    pixels = (image - image.min()) / (image.max() - image.min()) * grey.max()
    np.testing.assert_allclose(pixels.numpy(), grey, atol=1e-2)


def test_fewer_digits(digits: studies.Digits, mnist_root: Path):
    assert len(digits.train_labels) == 100
    assert digits.train_labels.bincount(minlength=10).min() >= 5
    assert len(digits.test_labels) == 1000
    with pytest.raises(UserError, match="training images must number 50 to 4000, got 5"):
        studies.load_digits(5, cache_dir=mnist_root.parent / ".cache")


@pytest.mark.parametrize("study", [studies.ACTIVATION, studies.DEPTHWISE])
def test_all_models_start_from_the_same_values(study: studies.Study):
    reference = studies.build_model(study.presets[0], seed=1).state_dict()
    for preset in study.presets[1:]:
        own = studies.build_model(preset, seed=1).state_dict()
        shared = [key for key in own if key in reference and own[key].shape == reference[key].shape]
        assert {"head.weight", "backbone.pos_embed", "backbone.blocks.1.mlp.fc1.weight"} <= {
            *shared
        }
        assert all(torch.equal(own[key], reference[key]) for key in shared), preset
    assert not torch.equal(studies.build_model("deit", 2).head.weight, reference["head.weight"])


def test_kernel_size_of_a_preset():
    mixer = studies.build_model("dwvit:5").backbone.blocks[0].mixer
    assert mixer.static_key.shape[-1] == 5
    for preset, words in (("nothing", "nothing"), ("dw:x", "NAME:KERNEL_SIZE"), ("dw:4", "odd")):
        with pytest.raises(UserError, match=words):
            studies.build_model(preset)


@pytest.mark.parametrize("preset", ["deit", "dwvit:3", "dw:3", "ddw:3"])
def test_costs_are_what_is_counted(preset: str):
    model = studies.build_model(preset)
    for block in model.backbone.blocks:
        block.mixer.impl = "group"
    params, macs = studies.count_costs(model)
    counted = count_complexity(model, torch.zeros(1, 1, 28, 28))
    assert params == counted.params
    assert macs == counted.macs.total


class Probe(nn.Module):
    """A linear classifier that keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []
        self.norm = nn.LayerNorm(784)
        self.linear = nn.Linear(784, 10)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x.flatten(1).sum(1))
        return self.linear(self.norm(x.flatten(1)))


def _separable() -> studies.Digits:
    """Images with one bright row that says which class it is."""
    labels = torch.arange(200) % 10
    images = 0.1 * torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images[torch.arange(200), 0, labels] += 1
    return studies.Digits(images, labels, images[:50], labels[:50])


def test_training_learns_and_a_seed_fixes_the_batches(monkeypatch):
    groups = []

    class AdamW(torch.optim.AdamW):
        def __init__(self, params, **kwargs):
            super().__init__(params, **kwargs)
            groups.append(self.param_groups)

    monkeypatch.setattr(torch.optim, "AdamW", AdamW)
    first, second, other = Probe(), Probe(), Probe()
    history = list(studies.train(first, _separable(), 5, seed=0))
    assert history[-1][1] == 1.0
    assert history[-1][0] < history[0][0] / 2
    assert all(seconds > 0 for _, _, seconds in history)
    list(studies.train(second, _separable(), 5, seed=0))
    list(studies.train(other, _separable(), 5, seed=1))
    assert torch.equal(torch.cat(first.seen), torch.cat(second.seen))
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(torch.cat(first.seen), torch.cat(other.seen))
    decayed, rest = groups[0]
    assert [p.shape for p in decayed["params"]] == [first.linear.weight.shape]
    assert len(rest["params"]) == 3
    assert (decayed["weight_decay"], rest["weight_decay"]) == (studies.WEIGHT_DECAY, 0)
    assert decayed["lr"] == pytest.approx(0, abs=1e-4)  # the end of the cosine


def test_order_of_mixers_turns(monkeypatch, digits: studies.Digits):
    runs = []

    def run(_arrays, preset, seed, epochs):
        runs.append((preset, seed, torch.get_num_threads()))
        return [studies.Record(preset, seed, epoch + 1, 1.0, 0.5, 1.0) for epoch in range(epochs)]

    monkeypatch.setattr(studies, "_run", run)
    records = studies.run_study(["a", "b", "c"], [4, 5], 2, digits)
    assert [(preset, seed) for preset, seed, _ in runs] == [
        ("a", 4), ("b", 4), ("c", 4), ("b", 5), ("c", 5), ("a", 5)
    ]  # fmt: skip
    assert {threads for *_, threads in runs} == {1}
    assert len(records) == 12


def test_fixed_epochs():
    assert studies.fixed_epochs(10) == (2, 5, 10)
    assert studies.fixed_epochs(2) == (1, 2)
    assert studies.fixed_epochs(1) == (1,)


# Accuracies of two seeds at the only epoch.
ACCURACIES = {"deit": (0.50, 0.52), "good": (0.70, 0.72), "bad": (0.30, 0.32), "same": (0.51, 0.51)}


def _records(accuracies=ACCURACIES) -> list[studies.Record]:
    return [
        studies.Record(
            preset, seed, 1, math.nan if (preset, seed) == ("bad", 1) else 1.0, value, 2.0 + seed
        )
        for preset, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def _summaries() -> list[studies.Summary]:
    costs = dict.fromkeys(ACCURACIES, (10, 100)) | {"good": (20, 50)}
    return studies.summarise(_records(), costs)


def test_summaries():
    deit, good, bad, same = _summaries()
    assert (deit.preset, deit.params, deit.macs, deit.seconds) == ("deit", 10, 100, 2.5)
    assert deit.points == (pytest.approx((1, 0.51, 0.02 / math.sqrt(2), 0, 0)),)
    assert good.points[0].gain == pytest.approx(0.2)
    assert [s.points[0].wins for s in (good, bad, same)] == [2, 0, 1]
    assert [s.failures for s in (deit, good, bad, same)] == [0, 0, 1, 0]


def test_report_says_what_was_measured_and_what_was_not(digits: studies.Digits):
    text = studies.report(studies.ACTIVATION, _summaries(), [0, 1], digits, "Source.")
    assert "| good | 20 | 0.00 | 71.0 ± 1.4 | 2.50 |" in text
    assert "`good` against `deit`, seed by seed: +20.0 points at epoch 1 (higher in 2 of 2)" in text
    assert "0.50 times the multiply-adds, 1.00 times the time" in text
    assert "1 run with a loss that is not finite" in text
    assert "Ahead of `deit` at epoch 1 in every seed: `good`." in text
    assert "both standard deviations together: `good`; lower by more than that: `bad`." in text
    assert "large models and long schedules is open" in text
    assert "100 MNIST digits" in text
    assert "Following the abstract" in text
    assert "reproduc" not in text.lower()
    records = [r for r in _records() if r.seed == 0]
    one = studies.summarise(records, dict.fromkeys(ACCURACIES, (1, 1)))
    text = studies.report(studies.DEPTHWISE, one, [0], digits, "Source.")
    assert "One seed says nothing about the spread." in text
    assert "nan" not in text


def test_files(tmp_path: Path, digits: studies.Digits):
    studies.write_results(tmp_path, _records(), _summaries())
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == "preset,seed,epoch,train_loss,test_accuracy,seconds"
    assert lines[1] == "deit,0,1,1.000000,0.5000,2.000"
    header, deit, *others = (tmp_path / "summary.csv").read_text().splitlines()
    assert header == (
        "preset,params,macs,accuracy_epoch_1,deviation_epoch_1,gain_epoch_1,wins_epoch_1,"
        "seconds_per_epoch,failures"
    )
    assert deit == "deit,10,100,0.5100,0.0141,0.0000,0,2.500,0"
    assert len(others) == 3
    studies.plot(_records(), studies.ACTIVATION, digits, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 20_000
