"""Reading checkpoint files: honest ones load, others are refused and never run."""

import argparse
import datetime
import os
import pathlib
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvitconv.errors import CheckpointError
from mmvitconv.weights import load_file


class Payload:
    """Pickles into a call that leaves a mark when it is run."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_plain_and_wrapped_checkpoints(tmp_path):
    weights = {"a": torch.arange(3.0)}
    for content in (weights, {"state_dict": weights, "epoch": 3}):
        torch.save(content, tmp_path / "a.pth")
        loaded = load_file(tmp_path / "a.pth")
        assert torch.equal(loaded.get("state_dict", loaded)["a"], weights["a"])


def test_what_training_scripts_store(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        "state_dict": {"a": torch.ones(2)},
        "args": argparse.Namespace(lr=1e-3, data="imagenet"),
        "metric": np.float64(80.9),
        "array": np.arange(4),
        "message_hub": {"log_scalars": {"loss": history}},
    }
    torch.save(content, tmp_path / "a.pth")
    loaded = load_file(tmp_path / "a.pth")
    assert loaded["args"].lr == 1e-3
    assert loaded["metric"] == 80.9
    assert loaded["array"].tolist() == [0, 1, 2, 3]
    stored = loaded["message_hub"]["log_scalars"]["loss"]
    assert not isinstance(stored, HistoryBuffer)  # its data, not its class
    assert stored._log_history.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_never_run(tmp_path, legacy, monkeypatch):
    marker = tmp_path / "marker"
    content = {"state_dict": {"a": torch.ones(2)}, "extra": Payload(marker)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match=r"refused: reading it would run '\w+\.mkdir'"):
        load_file(tmp_path / "a.pth")
    assert not marker.exists()


def test_the_stand_ins_run_nothing(tmp_path):
    """``getattr`` is on the allow-list as an inert name: it must not reach anything."""

    class Sneaky:
        def __reduce__(self):
            return getattr, (torch.Tensor, "__class__")

    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Sneaky()}, tmp_path / "a.pth")
    assert load_file(tmp_path / "a.pth")["x"] is not type(torch.Tensor)


def test_allow_list_is_put_back(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    load_file(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_damaged_files(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as file:
        file.writestr("hello.txt", "hello")
    contents = {
        "empty.pth": b"",
        "text.pth": b"<html>404 not found</html>",
        "random.pth": bytes(range(256)) * 20,
        "half.pth": good[: len(good) // 2],
        "cut.pth": good[:-10],
        "empty.safetensors": b"",
        "text.safetensors": b"hello, world, this is no header",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "zip.pth"):
        with pytest.raises(CheckpointError, match=f"{name}' is damaged or not a") as caught:
            load_file(tmp_path / name)
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_written_by_any_numpy(tmp_path, core):
    pickled = pickle.dumps({"metric": np.float64(80.9), "array": np.arange(4)}, protocol=2)
    pickled = re.sub(rb"numpy\._?core\.", f"numpy.{core}.".encode(), pickled)
    write_pickle(tmp_path / "a.pth", pickled)
    loaded = load_file(tmp_path / "a.pth")
    assert loaded["metric"] == 80.9
    assert loaded["array"].tolist() == [0, 1, 2, 3]


def write_pickle(path, pickled):
    """Write an archive whose pickle is of another release of Python or numpy."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/version", "3\n")


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # of 3.12 and before, of 3.13
@pytest.mark.parametrize("kind", ["Path", "PosixPath", "PurePosixPath", "WindowsPath"])
def test_paths_written_by_any_python(tmp_path, module, kind):
    path = f"c{module}\n{kind}\n".encode() + b"X\x04\0\0\0dataX\x02\0\0\0in\x86R"
    args = b"cargparse\nNamespace\n)\x81}X\x06\0\0\0folder" + path + b"sb"
    write_pickle(tmp_path / "a.pth", b"\x80\x02}X\x04\0\0\0args" + args + b"s.")
    folder = load_file(tmp_path / "a.pth")["args"].folder
    assert isinstance(folder, pathlib.PurePath)
    assert folder.parts == ("data", "in")


def test_dates(tmp_path):
    dates = [datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone.utc),
             datetime.date(2026, 1, 2), datetime.timedelta(hours=3)]  # fmt: skip
    torch.save({"dates": dates}, tmp_path / "a.pth")
    assert load_file(tmp_path / "a.pth")["dates"] == dates


class Recipe:
    """A class of the user's own."""


def test_what_torch_allows_is_allowed(tmp_path):
    recipe = Recipe()
    recipe.epochs = 3
    torch.save({"recipe": recipe}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"would run '[\w.]+Recipe'"):
        load_file(tmp_path / "a.pth")
    with torch.serialization.safe_globals([Recipe]):
        assert load_file(tmp_path / "a.pth")["recipe"].epochs == 3


def test_tensors_may_stay_in_the_file(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pth")
    torch.save({"a": torch.ones(3)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    assert load_file(tmp_path / "a.pth", mmap=True)["a"].tolist() == [0, 1, 2]
    assert load_file(tmp_path / "b.pth", mmap=True)["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_honest_checkpoints_hold(tmp_path, legacy):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.is_special = True
    x = torch.rand(2, 3, 4, 4)
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4])
    content = {
        "state_dict": torch.nn.BatchNorm2d(3).state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "numpy": [np.random.get_state(), np.array(["a", "bcd"]), np.ones((2, 3), order="F")],
        "views": [x, x, x[0], x.transpose(0, 1), x.to(memory_format=torch.channels_last)],
        "expanded": torch.ones(1).expand(50, 50),
        "parameter": weight,
        "tensors": [torch.empty(0, 3), torch.tensor(3.0), torch.tensor([True]), torch.ones(2) * 1j],
        "plain": [{1, 2}, b"abc", bytearray(b"xy"), 1 + 2j, 10**30, -5, (None, "é\n")],
        "torch": [torch.Size([2]), torch.float32, torch.device("cuda:0"), torch.strided],
        "args": argparse.Namespace(folder=Path("x/y")),
        "keys": {"a": 1, 3: 2, 1.5: 3, None: 4, (1, "b"): 5, 10**30: 6, 2 + 1j: 7, b"c": 8},
    }
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    loaded = load_file(file)
    plain = torch.load(file, weights_only=False)
    assert loaded.keys() == plain.keys()
    assert str(loaded["plain"]) == str(plain["plain"])
    assert loaded["args"] == plain["args"]
    assert loaded["keys"] == plain["keys"]
    for ours, theirs in zip(loaded["views"], plain["views"], strict=True):
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)


def test_missing_file_and_wrong_content(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_file(tmp_path / "none.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, but a dict"):
        load_file(tmp_path / "list.pth")


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["state_dict"]["a"].tolist() == [0, 1, 2]
