"""``mmvitconv list``: table and JSON."""

import io
import json

import pytest
from rich.console import Console

from mmvitconv.cli import run
from mmvitconv.cli.list import best_results, print_table
from mmvitconv.zoo import catalogue as zoo

FAMILY = "ParCResNet"


@pytest.mark.parametrize("columns", [80, 160])
def test_table(columns, capsys):
    result = zoo.Result("Task", "COCO", "box AP", 41.25, "a paper; not reproduced")
    other = zoo.Result("Task", "COCO", "box AP", 42.5, "another paper")
    configs = (
        zoo.ShippedConfig("configs/net/one.py", "detection", (result,)),
        zoo.ShippedConfig("configs/net/two.py", "detection", (other,)),
    )
    arch = zoo.Arch(
        *("Net", "small", ("s",), 12_345_678, {"224x224": 9_876_543_210}),
        *((4, 8), (64, 128), ("detection",), None, configs),
    )
    out = io.StringIO()
    print_table([arch], Console(file=out, width=columns))
    printed = out.getvalue()
    for word in (
        "Net",
        "small",
        "= s",
        "12.35 M",
        "9.88 G",
        "4: 64",
        "8: 128",
        "detection",
        "42.5",
    ):
        assert word in printed
    assert "41.25" not in printed
    assert "(1) another paper" in printed
    assert "backbone alone" in " ".join(printed.split())


def test_sources_are_numbered_once():
    result = zoo.Result("Task", "Data", "Top 1 Accuracy", 80.0, "source")
    config = zoo.ShippedConfig("configs/net/one.py", "classification", (result,))
    arch = zoo.Arch("Net", "s", (), 1, {}, (4,), (8,), (), None, (config,))
    sources = {"first": 1}
    assert best_results(arch, sources) == ["Data: Top 1 80.0 (2)"]
    assert best_results(arch, sources) == ["Data: Top 1 80.0 (2)"]
    assert sources == {"first": 1, "source": 2}


def test_json(capsys):
    assert run("list", "--family", FAMILY, "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["type"] == f"mmvitconv.{FAMILY}"
    assert entry["arch"] == "50"
    assert entry["parameters"] > 20_000_000
    assert entry["strides"] == [4, 8, 16, 32]
    assert {config["path"] for config in entry["configs"]} >= {
        "configs/parc/parc_resnet50_imagenet.py"
    }


def test_names_of_weights(capsys):
    assert run("list", "--family", "FCViT", "--json") == 0
    entries = {entry["arch"]: entry["weights"] for entry in json.loads(capsys.readouterr().out)}
    assert entries["s12"] == ["fcvit_s12", "fcvit_s12_maskrcnn_coco", "fcvit_s12_fpn_ade20k"]
    assert run("list", "--family", "FCViT") == 0
    assert "and 2 more" in capsys.readouterr().out


def test_mistakes_are_one_sentence(capsys):
    assert run("list", "--family", "resnext") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmvitconv list: error: there is no family 'resnext'")
