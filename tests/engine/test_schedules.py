"""One number, the length of the run, changes all of a schedule."""

import numpy as np
import pytest
from mmengine.config import Config
from recipes import CONFIGS, learning_rates

SCHEDULES = [
    path.stem
    for path in sorted((CONFIGS / "_base_/schedules").glob("*.py"))
    if "param_scheduler" in Config.fromfile(path)  # others hold settings of the optimizer
]


def rates_of(name, share):
    """The rates of a shipped schedule whose run is that share of its own, at least 30 steps."""
    cfg = Config.fromfile(CONFIGS / f"_base_/schedules/{name}.py")
    key = "max_epochs" if "max_epochs" in cfg.train_cfg else "max_iters"
    cfg.train_cfg[key] = max(30, round(share * cfg.train_cfg[key]))
    return learning_rates(cfg, epoch_length=40 if key == "max_epochs" else 1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("share", [0.05, 1, 2])
def test_a_schedule_ends_with_the_run(name, share):
    rates = rates_of(name, share)
    top = int(rates.argmax())
    assert top < 0.41 * len(rates), "the warm-up is a part of the run"
    assert (np.diff(rates[top:]) <= 1e-12).all(), "the rate never rises again"
    assert rates[-1] < 0.08 * rates.max(), "it has fallen at the end"
    assert rates[int(0.6 * len(rates))] > 0.05 * rates.max(), "and not long before"


def test_steps_are_shares_of_the_run():
    cfg = Config.fromfile(CONFIGS / "_base_/schedules/coco_1x.py")
    cfg.train_cfg.max_epochs = 24
    rates = learning_rates(cfg, epoch_length=100)
    drops = np.flatnonzero(np.diff(rates) < 0) + 1
    assert drops.tolist() == [1600, 2200]


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("name", ["imagenet_300e_warmup20", "convmixer_150e"])
def test_the_shortest_runs_reach_the_full_rate(name, epochs):
    cfg = Config.fromfile(CONFIGS / f"_base_/schedules/{name}.py")
    cfg.train_cfg.max_epochs = epochs
    rates = learning_rates(cfg, epoch_length=40)
    assert rates.max() == pytest.approx(cfg.optim_wrapper.optimizer.lr, rel=0.1)


@pytest.mark.parametrize(
    "wrong", [{"span": (0.5, 0.5)}, {"span": (0, 1.5)}, {"span": (0, 0.5), "begin": 3}]
)
@pytest.mark.parametrize("kind", ["LinearLR", "CosineAnnealingLR"])
def test_spans_are_shares_of_the_run(kind, wrong):
    cfg = Config.fromfile(CONFIGS / "_base_/schedules/imagenet_300e.py")
    cfg.param_scheduler = [{"type": f"mmvitconv.{kind}", **wrong}]
    with pytest.raises(ValueError, match="two shares of the run"):
        learning_rates(cfg, epoch_length=1, iterations=1)


@pytest.mark.parametrize("kind", ["WarmupLR", "PolyLR"])
def test_epochs_are_refused(kind):
    cfg = Config.fromfile(CONFIGS / "_base_/schedules/ade20k_160k.py")
    step = next(step for step in cfg.param_scheduler if step.type.endswith(kind))
    cfg.param_scheduler = [{**step, "by_epoch": True}]
    cfg.train_cfg.max_iters = 10
    with pytest.raises(ValueError, match="write by_epoch=False"):
        learning_rates(cfg, epoch_length=1)
