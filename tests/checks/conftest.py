"""The data of each task, as a user has them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from broken_data import build, loaders


@pytest.fixture
def make(nuclei_root: Path, mnist_root: Path, tmp_path: Path) -> Callable[..., tuple[Path, dict]]:
    """A function that copies the data of a task; returns their root and a config's loaders."""

    def copy(task: str, workers: int = 0) -> tuple[Path, dict]:
        source = mnist_root if task == "classification" else nuclei_root
        root = build(task, source, tmp_path / "data")
        return root, loaders(task, root, workers)

    return copy
