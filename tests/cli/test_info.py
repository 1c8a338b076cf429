"""``mmvitconv info``."""

import pytest

from mmvitconv.cli import run


@pytest.mark.parametrize("name", [["fcvit_s12"], ["FCViT", "s12"]], ids=lambda name: name[0])
def test_everything_is_there(name, capsys):
    assert run("info", *name) == 0
    printed = capsys.readouterr().out
    for word in (
        *("mmvitconv.FCViT", "b12", "arxiv.org/abs/2212.12552", "14,189,856", "2.645 G"),
        *("53.962 G", "4, 8, 16, 32", "64, 128, 320, 512", "80.9", "not reproduced"),
        *("mmvitconv://fcvit_s12_fpn_ade20k", "licence: Apache-2.0"),
        *("configs/fcvit/maskrcnn_fcvit_s12_coco.py", 'type="mmvitconv.FCViT", arch="s12"'),
    ):
        assert word in printed, word


def test_equal_blocks_are_shown_together(capsys):
    assert run("info", "convmixer_768_32") == 0
    assert "0: 747,264; 1-31: 632,064" in capsys.readouterr().out


def test_mistakes_are_one_sentence(capsys):
    assert run("info", "lightvit_tinny") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean LightViT tiny" in line
