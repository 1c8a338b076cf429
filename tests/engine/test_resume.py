import os
from pathlib import Path

import pytest
import torch

from mmvitconv.engine.resume import find_resumable


def save(path: Path, age: float, keep: float = 1.0) -> Path:
    """Write a checkpoint that is ``age`` seconds old and keep a part of its bytes."""
    torch.save({"state_dict": {"weight": torch.zeros(100)}}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert find_resumable(tmp_path) == (None, [])
    assert find_resumable(tmp_path / "missing") == (None, [])


def test_named_checkpoint_wins_over_newer_ones(tmp_path: Path) -> None:
    named = save(tmp_path / "epoch_1.pth", age=10)
    save(tmp_path / "epoch_2.pth", age=0)
    (tmp_path / "last_checkpoint").write_text(str(named))
    assert find_resumable(tmp_path) == (named, [])


def test_work_directory_was_moved(tmp_path: Path) -> None:
    save(tmp_path / "epoch_1.pth", age=0)
    (tmp_path / "last_checkpoint").write_text("/elsewhere/work/epoch_1.pth")
    assert find_resumable(tmp_path) == (tmp_path / "epoch_1.pth", [])


@pytest.mark.parametrize("content", ["{folder}/iter_900.pth", "", "{folder}/gone.pth"])
def test_fall_back_to_the_newest_whole_checkpoint(tmp_path: Path, content: str) -> None:
    save(tmp_path / "iter_900.pth", age=0, keep=0.5)
    good = save(tmp_path / "iter_800.pth", age=20)
    save(tmp_path / "epoch_99.pth", age=30)
    save(tmp_path / "best_metric_epoch_2.pth", age=-10)
    (tmp_path / "checkpoint.partial").write_bytes(b"PK")
    (tmp_path / "last_checkpoint").write_text(content.format(folder=tmp_path))
    found, warnings = find_resumable(tmp_path)
    assert found == good
    assert "last_checkpoint names" in warnings[0]
    assert "iter_900.pth is damaged" in warnings[1]
    assert warnings[2] == f"resuming from {good} instead"


def test_equal_ages_are_ordered_by_number(tmp_path: Path) -> None:
    for epoch in (9, 10, 2):
        save(tmp_path / f"epoch_{epoch}.pth", age=0)
    assert find_resumable(tmp_path)[0].name == "epoch_10.pth"
