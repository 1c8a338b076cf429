"""Training that is killed and goes on, for the three tasks, as a user starts it."""

import argparse
import importlib.util
import json
import sys
from itertools import combinations
from pathlib import Path

import pytest
from processes import ROOT, run_python

pytestmark = pytest.mark.slow

TOOL = ROOT / "tools" / "misc" / "chaos_train.py"
SHORT = {
    "train_dataloader.num_workers": 1,
    "val_dataloader.num_batch_per_epoch": 1,
    "default_hooks.logger.interval": 1,
}
# Random flips in the pipeline, drop path and worker processes; checkpoints inside the epochs.
EPOCHS = {
    "train_dataloader.num_batch_per_epoch": 3,
    "train_dataloader.batch_size": 2,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.by_epoch": False,
    "default_hooks.checkpoint.interval": 2,
    "model.backbone.drop_path_rate": 0.2,
}
ITERATIONS = {
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 2,
    "model.backbone.drop_path_rate": 0.2,
}


def load_tool():
    """The tool as a module."""
    spec = importlib.util.spec_from_file_location("chaos_train", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos_train"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.smoke
@pytest.mark.usefixtures("nuclei_root", "mnist_root")
@pytest.mark.parametrize(
    ("config", "changes", "processes"),
    [
        ("fcvit/fcvit_tiny_mnist", EPOCHS, 1),
        ("fcvit/maskrcnn_fcvit_tiny_nuclei", EPOCHS, 1),
        ("fcvit/upernet_fcvit_tiny_nuclei", ITERATIONS, 1),
        ("fcvit/fcvit_tiny_mnist", EPOCHS, 2),
    ],
)
def test_killed_training_ends_with_the_same_bits(
    tmp_path: Path, config: str, changes: dict, processes: int
) -> None:
    options = [f"{key}={value}" for key, value in {**SHORT, **changes}.items()]
    run_python(
        *(TOOL, ROOT / "configs" / f"{config}.py", "--kills", 2, "--processes", processes),
        *("--work-dir", tmp_path, "--cfg-options", *options),
        CUDA_VISIBLE_DEVICES="",
    )
    report = json.loads((tmp_path / config.rpartition("/")[2] / "report.json").read_text())
    assert report["differing"] == []
    assert report["compared"] > 300
    assert report["kills"] >= 1  # on a busy machine the second may come too late
    assert report["starting_points"][0] == "the start"
    assert report["starting_points"][-1].startswith("iter_")


@pytest.mark.usefixtures("mnist_root")
def test_killed_training_with_all_features_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)
    tool = load_tool()
    settings = {"train_dataloader.batch_size": 2, "train_dataloader.num_workers": 1}
    settings |= {"val_dataloader.num_batch_per_epoch": 1, "model.backbone.drop_path_rate": 0.1}
    options = argparse.Namespace(
        config=str(ROOT / "configs/convmixer/convmixer_256_8_mnist.py"),
        cfg_options=[f"{key}={value}" for key, value in settings.items()],
        work_dir=str(tmp_path),
        kills=2,
        seed=0,
    )
    report = tool.shake(tool.combine(options, tool.FEATURES), tool.FEATURES)
    assert report.differing == []
    assert report.compared > 300
    assert report.processes == 2
    assert report.end == 40  # early stopping, at the same place
    assert report.kills >= 1


def test_any_two_features_meet_in_all_four_ways() -> None:
    tool = load_tool()
    for seed in range(5):
        chosen = tool.choose_combinations(seed, every=False)
        assert chosen[0] == (True,) * 5
        assert len(chosen) <= 8
        for one, other in combinations(range(5), 2):
            assert len({(row[one], row[other]) for row in chosen}) == 4
    assert len(set(tool.choose_combinations(0, every=True))) == 32


def test_failing_run_is_shown(tmp_path: Path) -> None:
    done = run_python(TOOL, "no_config.py", "--work-dir", tmp_path, check=False)
    assert done.returncode == 1
    assert "there is no config file 'no_config.py'" in done.stderr
    assert "Traceback" not in done.stderr


def test_comparison_finds_every_difference() -> None:
    import torch

    tool = load_tool()
    one = {
        "state_dict": {"a": torch.zeros(2), "b": torch.tensor([float("nan")])},
        "list": [1, "x"],
        "time": 1,
    }
    other = {
        "state_dict": {"a": torch.tensor([0.0, -0.0]), "b": torch.tensor([float("nan")])},
        "list": [1, "y"],
        "time": 2,
        "more": 1,
    }
    report = tool.Report("config", 1)
    tool.compare(one, one, report)
    assert report.differing == []
    assert report.compared == 4
    tool.compare(one, other, report)
    places = ["checkpoint.list.1", "checkpoint.more (in one run only)", "checkpoint.state_dict.a"]
    assert report.differing == places
    tool.compare([1], [1, 2], report)
    assert report.differing[-1] == "checkpoint.1 (in one run only)"
