import pytest

from mmvitconv.datasets.first_runs.output import is_complete, new_output
from mmvitconv.errors import UserError


def write(out_dir, version=1, content="a"):
    with new_output(out_dir, "thing", version, "somewhere") as folder:
        (folder / "train").mkdir()
        (folder / "train" / "a.txt").write_text(content)


def test_complete_after_the_block(tmp_path):
    out = tmp_path / "deep" / "out"
    assert not is_complete(out, "thing", 1)
    write(out)
    assert is_complete(out, "thing", 1)
    assert not is_complete(out, "thing", 2)
    assert not is_complete(out, "other", 1)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_lost_and_shortened_files_are_noticed(tmp_path):
    out = tmp_path / "out"
    write(out, content="abc")
    (out / "train" / "a.txt").write_text("ab")
    assert not is_complete(out, "thing", 1)
    (out / "train" / "a.txt").unlink()
    assert not is_complete(out, "thing", 1)
    write(out, content="abc")
    assert is_complete(out, "thing", 1)


def interrupted(out):
    with new_output(out, "thing", 1, "somewhere") as folder:
        (folder / "half.txt").write_text("a")
        raise KeyboardInterrupt


def test_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_interruption_keeps_the_old_output(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "out")
    assert is_complete(tmp_path / "out", "thing", 1)


def test_new_version_replaces_the_old(tmp_path):
    write(tmp_path / "out", version=1, content="old")
    write(tmp_path / "out", version=2, content="new")
    assert (tmp_path / "out" / "train" / "a.txt").read_text() == "new"
    assert is_complete(tmp_path / "out", "thing", 2)


def test_foreign_files_are_never_touched(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"did not write, e\.g\. mine\.txt"):
        write(out)
    (out / "mine.txt").unlink()
    write(out)
    (out / "train" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"train/mine\.txt"):
        write(out, version=2)
    assert (out / "train" / "mine.txt").read_text() == "mine"


def test_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "out")
