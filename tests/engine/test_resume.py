import os
from pathlib import Path

import pytest
import torch

from mmvitconv.engine.resume import find_damage, find_resumable


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


def test_named_checkpoint_wins_over_those_of_an_earlier_run(tmp_path: Path) -> None:
    named = save(tmp_path / "epoch_1.pth", age=10)
    save(tmp_path / "epoch_2.pth", age=20)
    save(tmp_path / "iter_500.pth", age=0)
    (tmp_path / "last_checkpoint").write_text(str(named))
    assert find_resumable(tmp_path) == (named, [])


@pytest.mark.parametrize("age", [0, 10])  # 10: within the resolution of the file system's clock
def test_killed_before_the_newest_could_be_named(tmp_path: Path, age: int) -> None:
    named = save(tmp_path / "epoch_1.pth", age=10)
    newest = save(tmp_path / "epoch_2.pth", age)
    (tmp_path / "last_checkpoint").write_text(str(named))
    assert find_resumable(tmp_path) == (newest, [])
    save(newest, age, keep=0.9)
    found, warnings = find_resumable(tmp_path)
    assert found == named
    assert "epoch_2.pth is damaged (incomplete)" in warnings[0]


def test_files_of_an_earlier_run_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "epoch_3.pth", age=100)
    assert find_resumable(tmp_path, written_after=1e9 - 50) == (None, [])
    ours = save(tmp_path / "epoch_1.pth", age=10)
    assert find_resumable(tmp_path, written_after=1e9 - 50) == (ours, [])


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_flipped_bit_is_found(tmp_path: Path, place: float) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {"weight": torch.rand(10_000)}}, path)
    assert find_damage(path) is None
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)
    assert find_damage(path).startswith("wrong checksum of")


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
    assert "iter_900.pth is damaged (incomplete)" in warnings[-2]
    assert warnings[-1] == f"resuming from {good} instead"
    assert ("last_checkpoint names" in warnings[0]) is (content != "{folder}/iter_900.pth")


def test_equal_ages_are_ordered_by_number(tmp_path: Path) -> None:
    for epoch in (9, 10, 2):
        save(tmp_path / f"epoch_{epoch}.pth", age=0)
    assert find_resumable(tmp_path)[0].name == "epoch_10.pth"


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    good = save(tmp_path / "epoch_1.pth", age=10)
    os.mkfifo(tmp_path / "epoch_7.pth")
    (tmp_path / "epoch_8.pth").mkdir()
    (tmp_path / "epoch_9.pth").symlink_to(tmp_path / "missing.pth")
    (tmp_path / "epoch_10.pth").symlink_to(tmp_path / "epoch_10.pth")
    assert find_resumable(tmp_path) == (good, [])
    os.mkfifo(tmp_path / "last_checkpoint")
    assert find_resumable(tmp_path) == (good, [])
