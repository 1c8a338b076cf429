"""``mmvitconv weights``: list, get, where; the first line of a user's way to published weights."""

import io

import pytest
import torch
from weights import servers

from mmvitconv.cli import run
from mmvitconv.weights.index import read_index


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    return tmp_path


def content() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.ones(1)}, file)
    return file.getvalue()


@pytest.fixture
def mirror(monkeypatch):
    with servers.serve() as server:
        for entry in read_index().values():
            server.files[f"/{entry.name}/{entry.sources[0].file}"] = content()
        monkeypatch.setenv("MMVITCONV_MIRROR", server.url)
        yield server


def error_of(capsys, *arguments: str) -> str:
    assert run("weights", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmvitconv weights: error: ")
    return line


def test_list(capsys, home):
    for size, data in (("base", content()), ("small", b"")):
        (home / f"swin_{size}").mkdir()
        (home / f"swin_{size}" / f"swin_{size}_patch4_window7_224.pth").write_bytes(data)
    assert run("weights", "list") == 0
    printed = capsys.readouterr().out
    lines = {line.split()[1]: line for line in printed.splitlines() if line.startswith("│")}
    assert all(entry.name in lines for entry in read_index().values())
    assert "box AP 42.3, mask AP 38.6" in lines["fcvit_s12_maskrcnn_coco"]
    assert "MIT" in lines["swin_tiny"]
    assert "damaged" in lines["swin_small"]
    assert [name for name, line in lines.items() if "yes" in line] == ["swin_base"]
    assert "not reproduced" in " ".join(printed.split())


def test_get_and_where(capsys, home, mirror):
    assert "is not on this machine; run 'mmvitconv weights get fcvit_s12'" in error_of(
        capsys, "where", "fcvit_s12"
    )
    assert run("weights", "get", "fcvit_s12", "mmvitconv://parcnet_s", "dwnet_tiny") == 0
    printed = capsys.readouterr().out
    for word in (
        f"file     {home}/fcvit_s12/fcvt_b12.pth.tar",
        *("sha256   ", "licence  Apache-2.0", "Top 1 80.9 (README of github.com/ma-xu/FCViT; not"),
        *("licence  no licence file: link only", "mmvitconv://dwnet_tiny", "a link only: how"),
    ):
        assert word in printed, word
    assert run("weights", "where", "fcvit_s12_imagenet") == 0
    assert capsys.readouterr().out == f"{home}/fcvit_s12/fcvt_b12.pth.tar\n"


def test_mistakes_are_one_sentence(capsys, mirror):
    assert "did you mean fcvit_s12" in error_of(capsys, "get", "fcvit_s13")
    assert "its sha256 begins with" in error_of(capsys, "get", "deit_small")
    assert "is no address that checkpoints" in error_of(capsys, "where", "s3://a/b.pth")
    with pytest.raises(SystemExit):
        run("weights")
