"""Session fixtures: the tiny real data sets, converted once into the repository's data folder."""

from pathlib import Path

import pytest

from mmvitconv.datasets import mnist, nuclei, trees

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="session")
def nuclei_root() -> Path:
    """Folder of the nuclei, COCO and ADE20K layout; downloads 3 MB on the first use."""
    nuclei.convert(DATA / "nuclei")
    return DATA / "nuclei"


@pytest.fixture(scope="session")
def trees_root() -> Path:
    """Folder of the trees, COCO layout; downloads 21 MB on the first use."""
    trees.convert(DATA / "trees")
    return DATA / "trees"


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Folder of the digits, ImageNet layout; downloads 1.4 MB on the first use."""
    mnist.convert(DATA / "mnist")
    return DATA / "mnist"
