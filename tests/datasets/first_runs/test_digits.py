import numpy as np
from PIL import Image

from mmvitconv.datasets.first_runs import digits


def test_folders(mnist_root):
    rows = {}
    for split, per_class in (("train", 400), ("val", 100)):
        folders = sorted((mnist_root / split).iterdir())
        assert [folder.name for folder in folders] == [str(digit) for digit in range(10)]
        for folder in folders:
            files = sorted(folder.iterdir())
            assert len(files) == per_class
            rows.setdefault(split, set()).update(int(path.stem) for path in files)
    assert not rows["train"] & rows["val"]
    assert rows["train"] | rows["val"] == set(range(5000))


def test_pixels_and_labels_are_those_of_the_source(mnist_root):
    images, labels = digits.read_source(cache_dir=mnist_root.parent / ".cache")
    assert images.shape == (5000, 28, 28)
    assert images.max() == 255
    for path in sorted((mnist_root / "val").rglob("*.png"))[::50]:
        assert labels[int(path.stem)] == int(path.parent.name)
        assert np.array_equal(np.asarray(Image.open(path)), images[int(path.stem)])


def test_split_is_stratified_and_fixed():
    labels = np.repeat([3, 1, 2], [10, 20, 5])
    split = digits.split_rows(labels)
    assert split == digits.split_rows(labels)
    assert np.bincount(labels[split["train"]]).tolist() == [0, 16, 4, 8]
    assert sorted(split["train"] + split["val"]) == list(range(35))
    assert split["val"] != list(range(28, 35))


def test_mmpretrain_reads_it(mnist_root):
    from mmpretrain.datasets import CustomDataset

    dataset = CustomDataset(data_root=str(mnist_root), data_prefix="val")
    assert len(dataset) == 1000
    assert tuple("0123456789") == dataset.CLASSES
    assert np.bincount(dataset.get_gt_labels()).tolist() == [100] * 10
