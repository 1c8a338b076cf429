import errno
import io
import logging
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from mmvitconv.engine import runner
from mmvitconv.engine.runner import (
    check_checkpoint,
    check_pretrained,
    choose_exact_loop,
    choose_start,
    clear_names,
)
from mmvitconv.errors import UserError


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"by_epoch": True, "max_epochs": 2}, "mmvitconv.ResumableEpochLoop"),
        ({"by_epoch": False, "max_iters": 2}, "mmvitconv.ResumableIterLoop"),
        ({"type": "EpochBasedTrainLoop", "max_epochs": 2}, "mmvitconv.ResumableEpochLoop"),
        ({"type": "mmengine.IterBasedTrainLoop", "max_iters": 2}, "mmvitconv.ResumableIterLoop"),
        ({"type": EpochBasedTrainLoop, "max_epochs": 2}, "mmvitconv.ResumableEpochLoop"),
        ({"type": "TeacherStudentLoop", "max_epochs": 2}, "TeacherStudentLoop"),
    ],
)
def test_loops_that_resume_exactly_are_chosen(given: dict, chosen: str) -> None:
    cfg = Config({"train_cfg": given})
    choose_exact_loop(cfg)
    assert cfg.train_cfg.type == chosen
    assert "by_epoch" not in cfg.train_cfg
    assert cfg.train_cfg.get("max_epochs", cfg.train_cfg.get("max_iters")) == 2


@pytest.mark.parametrize("listed", [False, True])
def test_files_of_init_cfg_must_exist(tmp_path, listed: bool) -> None:
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "gone.pth")}
    model = {"backbone": {"init_cfg": [init] if listed else init}}
    with pytest.raises(UserError, match=r"^model\.backbone\.init_cfg.*: there is no file .*gone"):
        check_pretrained(Config({"model": model}))
    init["checkpoint"] = "open-mmlab://resnet18"  # what only MMEngine reads
    check_pretrained(Config({"model": model}))


def test_weights_with_an_address_are_fetched_at_once(monkeypatch) -> None:
    fetched = []
    monkeypatch.setattr(runner, "fetch", fetched.append)
    init = {"type": "Pretrained", "checkpoint": "mmvitconv://fcvit_s12"}
    check_pretrained(Config({"model": {"backbone": {"init_cfg": init}}}))
    cfg = Config({"load_from": "https://a.b/c.pth"})
    choose_start(cfg, None)
    assert fetched == ["mmvitconv://fcvit_s12", "https://a.b/c.pth"]
    with pytest.raises(UserError, match="--resume goes on from a checkpoint of a training run"):
        choose_start(cfg, "mmvitconv://fcvit_s12")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_without_room_ends_the_run(tmp_path, capsys) -> None:
    logger = logging.Logger("run")
    handler = logging.FileHandler(tmp_path / "log.txt")
    logger.addHandler(handler)
    runner.end_run_when_log_fails(logger)
    logger.info("%d", "no number")  # a mistake of the code stays one
    assert "Logging error" in capsys.readouterr().err
    handler.close()
    handler.stream = Full()
    with pytest.raises(OSError, match="No space left"):
        logger.info("words")


def put(path, kind: str) -> str:
    """Put what is no checkpoint in the place of one."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.symlink_to(path if kind == "loop" else path.with_name("gone"))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("pipe", "is a pipe or device, no checkpoint"),
        ("folder", "is a folder, no checkpoint"),
        ("loop", "is a link that points nowhere, no checkpoint"),
        ("dangling", "is a link that points nowhere, no checkpoint"),
        ("nothing", "there is no file '.*odd.pth'; .* holds epoch_1.pth$"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, kind: str, what: str) -> None:
    (tmp_path / "epoch_1.pth").touch()
    path = put(tmp_path / "odd.pth", kind)
    with pytest.raises(UserError, match=what):
        check_checkpoint(path, "checkpoint")
    cfg = Config({"work_dir": str(tmp_path / "work")})
    wanted = "holds no checkpoint to go on from" if kind == "folder" else what
    with pytest.raises(UserError, match=wanted):
        choose_start(cfg, path)
    assert not cfg.get("resume")
    with pytest.raises(UserError, match=wanted):
        choose_start(Config({"work_dir": "work", "resume": True, "load_from": path}), None)


@pytest.mark.parametrize("path", ["a" * 5000, "\0", "~nobody-of-this-name/a.pth"])
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(UserError, match="there is no file"):
        check_checkpoint(path, "checkpoint")


def test_work_directories_to_go_on_from(tmp_path) -> None:
    cfg = Config({"work_dir": str(tmp_path / "work")})
    assert "training starts from scratch" in choose_start(cfg, "auto")[-1]
    assert not cfg.resume
    (tmp_path / "epoch_1.pth").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"holds no checkpoint .*epoch_1.pth is damaged"):
        choose_start(cfg, str(tmp_path))
    torch.save({}, tmp_path / "epoch_1.pth")
    choose_start(cfg, str(tmp_path))
    assert cfg.resume
    assert cfg.load_from == str(tmp_path / "epoch_1.pth")


def test_what_a_run_writes_stays_in_its_work_directory(tmp_path):
    original = tmp_path / "original.py"
    original.write_text("mine")
    work = tmp_path / "work"
    work.mkdir()
    (work / "config.py").symlink_to(original)
    (work / "last_checkpoint").symlink_to(original)
    clear_names(work, "config.py")
    assert original.read_text() == "mine"
    assert [path.name for path in work.iterdir()] == ["last_checkpoint"]
    clear_names(work, "")
    (work / "last_checkpoint").unlink()
    (work / "last_checkpoint").mkdir()
    with pytest.raises(UserError, match="last_checkpoint is a folder, where this run writes"):
        clear_names(work, "config.py")
    (work / "last_checkpoint").rmdir()
    os.mkfifo(work / "config.py")
    with pytest.raises(UserError, match=r"config.py is a pipe or device, where this run writes"):
        clear_names(work, "config.py")
