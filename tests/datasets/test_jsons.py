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
