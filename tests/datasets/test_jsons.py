import json
import math
import os
from pathlib import Path

import pytest

from mmvitconv.datasets.jsons import read_json
from mmvitconv.errors import UserError


def test_what_json_holds(tmp_path: Path) -> None:
    content = {"a": [1, -2.5, True, None, "é"], "b": {}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json") == content
    (tmp_path / "a.json").write_text(f"[{2**60}, 1{'0' * 5000}, NaN]")
    found = read_json(tmp_path / "a.json")
    assert found[:2] == [float(2**60), math.inf]
    assert math.isnan(found[2])


def test_equal_numbers_are_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[100.25, 100.25, 70000, 70000, 1e3, 1000.0, 7.5, 7.5]")
    found = read_json(path)
    assert found == [100.25, 100.25, 70000, 70000, 1000.0, 1000.0, 7.5, 7.5]
    assert [type(number) for number in found[2:5]] == [int, int, float]
    assert found[0] is found[1]
    assert found[2] is found[3]
    monkeypatch.setattr("mmvitconv.datasets.jsons.MOST_KEPT", 2)
    bounded = read_json(path)
    assert bounded == found
    assert bounded[0] is bounded[1]
    assert bounded[6] is not bounded[7]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not valid json: Expecting value"),
        (b"{", "is not valid json"),
        (b"[" * 100_000, "nested without end"),
        (b'{"a":' * 100_000, "nested without end"),
        (b'["\xff"]', "byte 2 is not UTF-8"),
        (b"\xef\xbb\xbf[]", "is not valid json"),
    ],
)
def test_broken_files(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_json(path, "annotation file")
    assert f"the annotation file {str(path)!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    for name in ("pipe", "folder", "loop"):
        with pytest.raises(UserError, match=f"{name}.json' is no file"):
            read_json(tmp_path / f"{name}.json")
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "missing.json")
