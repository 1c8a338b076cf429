"""The command ``mmvitconv export``."""

from pathlib import Path

import pytest

from mmvitconv.cli import run

CONFIGS = Path(__file__).parents[2] / "configs"


def test_backbone_of_a_config(tmp_path, capsys):
    out = tmp_path / "ä b" / "m.pt"
    config = str(CONFIGS / "convmixer" / "maskrcnn_convmixer_256_8_nuclei.py")
    arguments = (config, "--backbone-only", "--format", "torchscript", "--out", str(out))
    assert run("export", *arguments, "--shape", "32", "48") == 0
    said = capsys.readouterr().out
    assert "note: without a checkpoint the weights are random" in said
    assert "checked 1 x 32 x 48: differs by" in said
    assert f"written: {out} (torchscript" in said
    assert out.is_file()
    assert Path(f"{out}.json").is_file()


def test_an_error_is_one_sentence(tmp_path, capsys):
    config = str(CONFIGS / "convmixer" / "maskrcnn_convmixer_256_8_nuclei.py")
    assert run("export", config, "--out", str(tmp_path / "m.pt2"), "--format", "torch") == 1
    assert "mmvitconv export: error: post-processing of detectors" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("x",), ("x", "--out", "y", "--format", "tflite")])
def test_wrong_command_line(arguments: tuple[str, ...], capsys):
    with pytest.raises(SystemExit) as ended:
        run("export", *arguments)
    assert ended.value.code == 2
    assert "usage: mmvitconv export" in capsys.readouterr().err
