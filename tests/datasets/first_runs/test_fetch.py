import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from mmvitconv.datasets.first_runs.fetch import WheelSource, download_wheel, read_members
from mmvitconv.errors import UserError

CONTENT = b"pixels"
SOURCE = WheelSource(
    name="somepackage",
    version="1.0",
    licence="MIT",
    members={"somepackage/image.bin": hashlib.sha256(CONTENT).hexdigest()},
)
WHEEL_NAME = "somepackage-1.0-py3-none-any.whl"
MEMBERS = {"somepackage/image.bin": CONTENT}


def metadata(tag: str) -> dict[str, bytes]:
    """The files by which pip knows a wheel."""
    texts = {
        "METADATA": "Metadata-Version: 2.1\nName: somepackage\nVersion: 1.0\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        "RECORD": "",
    }
    return {f"somepackage-1.0.dist-info/{name}": text.encode() for name, text in texts.items()}


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def test_reads_from_a_given_wheel_or_the_cache_without_download(tmp_path, no_network):
    wheel = write_wheel(tmp_path / "any_name.whl", MEMBERS)
    assert read_members(SOURCE, wheel) == MEMBERS
    write_wheel(tmp_path / WHEEL_NAME, MEMBERS)
    assert read_members(SOURCE, cache_dir=tmp_path) == MEMBERS


def test_path_traversal_in_archive_is_harmless(tmp_path):
    outside = tmp_path / "evil.txt"
    names = ["../evil.txt", "../../evil.txt", str(outside), "somepackage/../../evil.txt"]
    members = dict.fromkeys(names, b"evil") | MEMBERS
    wheel = write_wheel(tmp_path / "in" / "wheel.whl", members)
    before = sorted(tmp_path.rglob("*"))
    assert read_members(SOURCE, wheel) == MEMBERS
    assert sorted(tmp_path.rglob("*")) == before
    assert not outside.exists()
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"somepackage/image.bin": b"forged"}, "expected"),
        ({"other.bin": CONTENT}, "has no file somepackage/image.bin"),
    ],
)
def test_other_content_is_refused(tmp_path, members, message):
    wheel = write_wheel(tmp_path / "wheel.whl", members)
    with pytest.raises(UserError, match=message):
        read_members(SOURCE, wheel)


def test_huge_member_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("mmvitconv.datasets.first_runs.fetch.MAX_MEMBER_BYTES", 3)
    wheel = write_wheel(tmp_path / "wheel.whl", MEMBERS)
    with pytest.raises(UserError, match="claims 6 bytes, at most 3"):
        read_members(SOURCE, wheel)


def test_damaged_and_missing_wheels(tmp_path):
    damaged = tmp_path / "wheel.whl"
    damaged.write_bytes(b"not a zip")
    with pytest.raises(UserError, match="cannot be read as a wheel"):
        read_members(SOURCE, damaged)
    with pytest.raises(UserError, match="is not a file"):
        read_members(SOURCE, tmp_path / "absent.whl")


def test_offline_error_says_how_to_go_on(tmp_path, no_network):
    with pytest.raises(UserError) as caught:
        read_members(SOURCE, cache_dir=tmp_path)
    message = str(caught.value)
    assert "could not download somepackage==1.0" in message
    assert "--wheel FILE" in message
    assert "pip download --no-deps" in message
    assert "\n" not in message


def test_damaged_cache_is_fetched_again(tmp_path, no_network, monkeypatch):
    # pip finds its packages in a folder here, so that the real command runs without network.
    write_wheel(tmp_path / "index" / WHEEL_NAME, {**MEMBERS, **metadata("py3-none-any")})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / WHEEL_NAME).write_bytes(b"cut short")
    assert read_members(SOURCE, cache_dir=cache) == MEMBERS
    assert zipfile.is_zipfile(cache / WHEEL_NAME)


def test_platform_wheel_is_taken_whatever_runs_here(tmp_path, no_network, monkeypatch):
    # Tagged for another Python than most that run this test: the fixed target must still take it.
    name = "somepackage-1.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
    write_wheel(tmp_path / "index" / name, metadata("cp311-cp311-manylinux_2_28_x86_64"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert download_wheel(SOURCE, tmp_path / "cache").name == name
