import pytest

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.learnt import Images


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", ["val_dataloader.dataset.ann_file has the content of train_dataloader."]),
        ("{ }", []),
        (None, ["val_dataloader.dataset.ann_file is that of train_dataloader"]),
    ],
)
def test_annotations_of_training_tell_even_without_its_images(tmp_path, content, words):
    """One image, or images elsewhere, say nothing; the file of annotations does."""
    train, val = tmp_path / "train.json", tmp_path / "val.json"
    train.write_text("{}")
    if content is not None:
        val.write_text(content)
    images = Images()
    for split, file in (("train", train), ("val", train if content is None else val)):
        images.annotations.append((f"{split}_dataloader.dataset", split, str(file)))
    report = Report()
    images.compare(report)
    assert [sentence[: len(words[0])] for sentence in report.sentences("warnings")] == words


def test_an_image_listed_twice_in_training_is_not_one_of_an_evaluation():
    images = Images()
    for split in ("train", "train", "val"):
        images.add("a.png", f"/{split}/a.png", split, None)
    report = Report()
    images.compare(report)
    assert not report.warnings
