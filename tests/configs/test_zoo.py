"""tools/misc/write_zoo.py: what it writes, what it leaves alone, and that nothing is old."""

import importlib.util
import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "fcvit_tiny_mnist"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("write_zoo", ROOT / "tools/misc/write_zoo.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look
    spec.loader.exec_module(module)
    module.measure_families = cache(
        module.measure_families
    )  # takes half a minute, and is always the same
    return module


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A folder with one config, whose metafile, README and tables are to be filled in."""
    shutil.copytree(ROOT / "configs/_base_", tmp_path / "configs/_base_")
    folder = tmp_path / "configs/fcvit"
    folder.mkdir()
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/zoo.md"):
        (tmp_path / page).write_text("# Zoo\n<!-- zoo: begin -->\n<!-- zoo: end -->\n")
    text = (ROOT / f"configs/fcvit/{CONFIG}.py").read_text("utf-8")
    lines = [
        "# Measured:  @@" if line.startswith("# Measured:") else line for line in text.split("\n")
    ]
    (folder / f"{CONFIG}.py").write_text("\n".join(lines))
    (folder / "metafile.yml").write_text("# By hand.\nCollections:\n  - Name: FCViT\nModels: []\n")
    (tmp_path / "configs/sources.yml").write_text("[]")
    (folder / "README.md").write_text("before\n<!-- zoo: begin -->\n<!-- zoo: end -->\nafter\n")
    return folder


def run(tool, family: Path, *options: str) -> int:
    return tool.main([*options, "--configs", str(family.parent)])


def measured_line(family: Path) -> str:
    text = (family / f"{CONFIG}.py").read_text()
    return next(line for line in text.splitlines() if line.startswith("# Measured:"))


def test_nothing_is_out_of_date(tool, capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().out


def test_writing(tool, family, capsys):
    assert run(tool, family, "--check") == 1
    assert "write_zoo.py" in capsys.readouterr().err
    assert measured_line(family).endswith("@@"), "--check writes nothing"
    assert run(tool, family) == 0
    assert run(tool, family, "--check") == 0

    # the backbone of docs/specs/fcvit.md#2-variants (trunk and final norm), and a head of 320 x 10
    backbone, model = 4_463_112 + 2 * 320, 4_463_112 + 2 * 320 + 320 * 10 + 10
    line = measured_line(family)
    assert line.startswith("# Measured:  not trained here; model 4.47M parameters; backbone 4.46M,")
    assert line.endswith("MACs at 64x64")
    metafile = (family / "metafile.yml").read_text()
    assert metafile.startswith("# By hand.\n")
    (entry,) = yaml.safe_load(metafile)["Models"]
    assert (entry["Name"], entry["In Collection"]) == (CONFIG, "FCViT")
    assert entry["Metadata"]["Parameters"] == model
    assert entry["Metadata"]["Batch Size"] == 64
    readme = (family / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert f"| {model / 1e6:.2f} M | {backbone / 1e6:.2f} M |" in readme


def test_tables_of_all_families(tool, family):
    assert run(tool, family) == 0
    summary = (family.parents[1] / "README.md").read_text()
    everything = (family.parents[1] / "docs/zoo.md").read_text()
    assert everything.startswith("# Zoo\n<!-- zoo: begin -->\n| backbone |")
    assert summary.startswith("# Zoo\n<!-- zoo: begin -->\n| family |")
    (row,) = [line for line in summary.splitlines() if line.startswith("| [FCViT](configs/fcvit/")]
    assert row.endswith("| 4.5 - 51.0 M | 74.9 - 83.6 | 4, 8, 16, 32 | yes |")
    # the trunk and the four norms of docs/specs/fcvit.md#2-variants, and the README of its authors
    row = next(line for line in everything.splitlines() if "`s12`" in line)
    assert row.startswith("| [FCViT](../configs/fcvit/README.md) | `s12` | 14.19 M | 2.64 G |")
    assert "[80.9](../configs/fcvit/fcvit_s12_imagenet.py) (README of github.com/ma-xu/" in row
    assert "`b12`" not in everything, "another name of the same architecture"
    assert f"| [{CONFIG}](../configs/fcvit/{CONFIG}.py) | 4.47 M |" in everything
    assert "](../configs/fcvit/fcvit_s12_imagenet.py)" in everything


@pytest.mark.parametrize(
    ("page", "old"), [("README.md", "4.5 - 51.0 M"), ("docs/zoo.md", "14.19 M")]
)
def test_old_tables_are_found(tool, family, capsys, page, old):
    assert run(tool, family) == 0
    path = family.parents[1] / page
    path.write_text(path.read_text().replace(old, "1.0 M"))
    assert run(tool, family, "--check") == 1
    assert str(path) in capsys.readouterr().out


def test_by_hand_stays(tool, family):
    config, metafile = family / f"{CONFIG}.py", family / "metafile.yml"
    trained = "# Measured:  top-1 97.0 after 5 epochs,\n#            2 minutes on a CPU"
    config.write_text(config.read_text().replace("# Measured:  @@", trained))
    assert run(tool, family) == 0
    assert trained in config.read_text()
    assert "| top-1 97.0 after 5 epochs, 2 minutes on a CPU |" in (family / "README.md").read_text()

    content = yaml.safe_load(metafile.read_text())
    content["Models"][0]["Metadata"] |= {"Parameters": 1, "Training Resources": "a laptop"}
    metafile.write_text(yaml.safe_dump(content))
    assert run(tool, family) == 0
    (entry,) = yaml.safe_load(metafile.read_text())["Models"]
    assert entry["Metadata"]["Parameters"] > 4_000_000
    assert entry["Metadata"]["Training Resources"] == "a laptop"
    assert "Results" not in entry


def test_published_figures_come_from_the_ledger(tool, family):
    name = "fcvit_tiny_imagenet"
    text = (ROOT / f"configs/fcvit/{name}.py").read_text("utf-8")
    (family / f"{name}.py").write_text(re.sub("(?<=# Published: ).*", "top-1 1.0", text))
    ledger = family.parent / "sources.yml"
    figures = "figures: {" + name + ": {Top 1 Accuracy: %s}}\n"
    ledger.write_text(
        "- source: A\n  version: not recorded\n  " + figures % "12.50"
        + "- source: B\n  version: v2\n  " + figures % "13.5, Top 5 Accuracy: 90"
    )  # fmt: skip
    assert run(tool, family) == 0
    text = (family / f"{name}.py").read_text()
    assert (
        "# Published: top-1 12.50 at 224 (A)\n#            top-1 13.5, top-5 90 (B, v2)\n" in text
    )
    models = yaml.safe_load((family / "metafile.yml").read_text())["Models"]
    (entry,) = [model for model in models if model["Name"] == name]
    (result,) = entry["Results"]
    assert (result["Task"], result["Dataset"]) == ("Image Classification", "ImageNet-1k")
    assert result["Metrics"] == {"Top 1 Accuracy": 12.5, "Top 5 Accuracy": 90.0}
    assert entry["Published In"] == "A; B, v2; not reproduced here"
    assert "| Top 1 Accuracy 12.5; Top 5 Accuracy 90.0 |" in (family / "README.md").read_text()


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (f"{CONFIG}.py", "# Measured:", "# Result:", "Measured"),
        ("README.md", "zoo: begin", "zoo", "zoo: begin"),
        ("metafile.yml", "Models: []", "Models: [{Name: fcvit_huge}]", "fcvit_huge"),
    ],
)
def test_mistakes_are_one_sentence(tool, family, capsys, file, old, new, words):
    path = family / file
    path.write_text(path.read_text().replace(old, new))
    assert run(tool, family) == 1
    error = capsys.readouterr().err
    assert ": error: " in error
    assert words in error


def test_a_family_without_a_config_is_named(tool, family, capsys, monkeypatch):
    measured = dict(tool.measure_families())
    archs = tuple(replace(arch, configs=()) for arch in measured["LightViT"].archs)
    measured["LightViT"] = replace(measured["LightViT"], archs=archs)
    monkeypatch.setattr(tool, "measure_families", lambda: measured)
    assert run(tool, family) == 1
    assert "no config that is listed has a backbone of LightViT" in capsys.readouterr().err
