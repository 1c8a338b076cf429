"""Files of the same content in different groups."""

import numpy as np
import pytest

from mmvitconv.datasets import copies
from mmvitconv.datasets.copies import find_copies


def write(root, contents):
    """Write files; return their paths in the order of their names."""
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return [str(root / name) for name in contents]


def noise(seed, size=20_000):
    return np.random.default_rng(seed).bytes(size)


def test_copies_are_found_whatever_they_are_called(tmp_path):
    flat = bytes(40_000)
    contents = {
        "train/a.jpg": noise(0),
        "train/b.jpg": noise(1),
        "train/again.jpg": noise(1),
        "train/flat.bmp": b"1" + flat,
        "val/other.jpg": noise(1),
        "val/c.jpg": noise(2),
        "val/flat.bmp": b"2" + flat,  # differs in the first byte only
        "val/empty.jpg": b"",
        "train/empty.jpg": b"",
    }
    paths = write(tmp_path, contents)
    groups = {path: path.split("/")[-2] for path in [*paths, str(tmp_path / "val/missing.jpg")]}
    assert find_copies(groups) == ([(paths[1], paths[4])], 0)
    assert find_copies(dict.fromkeys(paths, "train")) == ([], 0)


@pytest.mark.parametrize(("name", "limit"), [("MOST_FILES", 3), ("MOST_BYTES", 50_000)])
def test_what_was_not_compared_is_counted(name, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, name, limit)
    rare, often = noise(0, 20_000), noise(1, 30_000)
    paths = write(tmp_path, {"a/1": often, "a/2": often, "b/3": often, "a/4": rare, "b/5": rare})
    groups = {path: path.split("/")[-2] for path in paths}
    assert find_copies(groups) == ([(paths[3], paths[4])], 3)


def test_files_of_other_sizes_are_not_opened(tmp_path, monkeypatch):
    paths = write(tmp_path, {f"{n % 2}/{n}": noise(0, 9 + n) for n in range(9)})
    monkeypatch.setattr(copies, "_piece", None)
    assert find_copies({path: path.split("/")[-2] for path in paths}) == ([], 0)
