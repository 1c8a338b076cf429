import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine import fileio

from mmvitconv.datasets import listing
from mmvitconv.datasets.layout import check_data
from mmvitconv.datasets.listing import LocalBackend, use_careful_listing
from mmvitconv.errors import UserError


@pytest.fixture
def careful() -> Iterator[None]:
    fileio.get_file_backend(".", enable_singleton=True)  # as some earlier reading leaves it
    use_careful_listing()
    yield
    fileio.register_backend("local", fileio.LocalBackend, force=True, prefixes="")
    fileio.io.backend_instances.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files, folders, and everything else."""
    root = tmp_path / "data"
    (root / "cat" / "inner").mkdir(parents=True)
    for name in ("cat/a.png", "cat/inner/b.png", "cat/.hidden.png", "cat/notes.txt"):
        (root / name).touch()
    return root


def broken(root: Path) -> None:
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "nowhere.png").symlink_to(root / "missing.png")
    (root / "cat" / "loop.png").symlink_to(root / "cat" / "loop.png")
    (root / "cat" / "around").symlink_to(root)
    (root / "loop").symlink_to(root / "loop")


@pytest.mark.parametrize(
    "options",
    [
        {"recursive": True},
        {},
        {"list_dir": False, "recursive": True, "suffix": ".png"},
        {"list_dir": False, "recursive": True, "suffix": (".png", ".txt")},
        {"list_file": False},
    ],
)
def test_the_list_is_that_of_mmengine(folder: Path, options: dict) -> None:
    expected = sorted(fileio.LocalBackend().list_dir_or_file(folder, **options))
    assert sorted(LocalBackend().list_dir_or_file(folder, **options)) == expected
    broken(folder)
    found = sorted(LocalBackend().list_dir_or_file(folder, **options))
    assert [name for name in found if name != "around"] == expected


@pytest.mark.usefixtures("careful")
def test_what_is_left_out_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(folder)
    lines: list[str] = []
    monkeypatch.setattr(listing, "print_log", lambda text, *_: lines.append(text))
    found = fileio.list_dir_or_file(folder, list_dir=False, recursive=True)
    assert sorted(found) == ["cat/a.png", "cat/inner/b.png", "cat/notes.txt"]
    said = "\n".join(lines)
    for what in ("pipe.png: a pipe", "nowhere.png: a link that points nowhere", "loop.png: a link"):
        assert what in said
    assert "around: a link to a folder around it" in said


@pytest.mark.parametrize("kind", ["pipe", "loop", "nowhere"])
@pytest.mark.parametrize("option", ["ann_file", "classes"])
def test_a_list_that_is_no_file_is_missing(option: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "missing")
    dataset = {"type": "mmpretrain.CustomDataset", option: str(path)}
    with pytest.raises(UserError, match=r"list\.txt \(a (pipe|link)"):
        check_data({"train_dataloader": {"dataset": dataset}}, ("train",))
