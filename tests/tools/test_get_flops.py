"""The command, as a user runs it and as a function."""

import subprocess
import sys

import pytest

from mmvitconv.cli import flops, run

pytestmark = pytest.mark.usefixtures("runner_state")

TOOL = "tools/analysis_tools/get_flops.py"
CONFIG = "configs/fcvit/fcvit_tiny_imagenet.py"

# docs/specs/fcvit.md#2-variants: 0.900 for the layers and 0.902 with the similarity product, the
# head of
# 320 x 1000 (0.0003) included. Parameters: trunk and final norm, with the head.
BACKBONE = ["4,463,752", "0.900", "0.001", "0.901"]
WHOLE = ["4,784,752", "0.900", "0.001", "0.902"]


@pytest.mark.slow
def test_the_command_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", TOOL, CONFIG], capture_output=True, text=True, check=True
    )
    assert "224 x 224" in done.stdout
    backbone, whole = (
        next(line for line in done.stdout.splitlines() if start in line)
        for start in ("backbone (FCViT)", "whole model")
    )
    assert [cell.strip() for cell in backbone.split("│")[2:6]] == BACKBONE
    assert [cell.strip() for cell in whole.split("│")[2:6]] == WHOLE
    assert "Every operator that ran is counted or free" in done.stdout


def test_shape_and_options(capsys):
    arguments = [CONFIG, "--shape", "64", "96", "--cfg-options", "model.head.num_classes=7"]
    assert run("flops", *arguments) == 0
    printed = capsys.readouterr().out
    assert "64 x 96" in printed
    assert f"{320 * 7 + 7:,}" in printed
    assert run("flops", CONFIG, "--shape", "32") == 0
    assert "32 x 32" in capsys.readouterr().out


def test_uncounted_operators_and_idle_parts_are_listed(capsys):
    from mmvitconv.zoo.config_costs import ConfigComplexity, PartComplexity
    from mmvitconv.zoo.costs import Complexity, Macs

    model = Complexity(5, Macs(7), {}, {}, {"aten.linalg_inv_ex": 2})
    parts = (
        PartComplexity("backbone", "Net", 2, Macs(7)),
        PartComplexity("auxiliary_head", "Head", 3, Macs()),
    )
    flops.print_costs(
        ConfigComplexity((1, 1), parts, model, ("A note.",)), flops.Console(width=100)
    )
    printed = capsys.readouterr().out
    assert "Not counted, no formula: aten.linalg_inv_ex (2x)." in printed
    assert "not run at inference: auxiliary_head." in printed
    assert "A note." in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["configs/fcvit/nothing.py"], "configs/fcvit/nothing.py"),
        ([CONFIG, "--shape", "0", "5"], "(0, 5)"),
        ([CONFIG, "--cfg-options", "model.backbone.arhc=tiny"], "arhc"),
        ([CONFIG, "--cfg-options", "model.backbone.arch=huge"], "huge"),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, words):
    assert run("flops", *arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("mmvitconv flops: error: ")
    assert words in captured.err
    assert "whole model" not in captured.out
