"""The ledger of published figures: head comments, metafiles and the index of weights against it."""

import re
from pathlib import Path

import pytest
import yaml
from recipes import read_metafile

from mmvitconv.analysis.benchmark import PEER_ACCURACY
from mmvitconv.weights.index import read_index

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = yaml.load((ROOT / "configs/sources.yml").read_text("utf-8"), yaml.BaseLoader)
LEDGER = [entry for entry in EVERYTHING if "figures" in entry]  # without the models of others
PATHS = {path.stem: path for path in sorted(ROOT.glob("configs/*/*.py"))}
del PATHS["default_runtime"]


def label(entry: dict) -> str:
    """A source's name, with its version where one was recorded."""
    known = entry["version"] != "not recorded"
    return f"{entry['source']}, {entry['version']}" if known else entry["source"]


def test_every_source_is_named_once_and_quotes_what_exists():
    names = [entry["source"] for entry in EVERYTHING]
    assert len(set(names)) == len(names)
    for entry in EVERYTHING:
        (kind,) = entry.keys() - {"source", "version"}
        assert kind in ("figures", "peers")
        known = PATHS.keys() | read_index().keys()
        assert (entry[kind].keys() <= known) == (kind == "figures")


def test_accuracies_in_the_plot_of_a_benchmark():
    metric = "Top 1 Accuracy"
    peers = [row for entry in EVERYTHING for row in entry.get("peers", {}).values()]
    # the first source of a figure counts
    figures = {name: row for entry in LEDGER[::-1] for name, row in entry["figures"].items()}
    known = {row["timm"]: row[metric] for row in peers if "timm" in row}
    known["swin_tiny_patch4_window7_224"] = figures["dynconv_swin_tiny_softmax_imagenet"][metric]
    known["deit_small_patch16_224"] = figures["deit_small_imagenet"][metric]
    known["convmixer_768_32"] = figures["convmixer_768_32_imagenet"][metric]
    assert {name: float(known[name]) for name in PEER_ACCURACY} == PEER_ACCURACY


@pytest.mark.parametrize("name", PATHS)
def test_published_figures_stand_in_a_source_that_is_named(name: str):
    """In the head comment and the metafile of a config."""
    text = PATHS[name].read_text("utf-8")
    published = re.search(r"^# Published: (.*(?:\n#   +.*)*)", text, re.MULTILINE)[1]
    published = re.sub(r"\s*\n#\s+", " ", published)
    named = [entry for entry in LEDGER if label(entry) in published]
    quoted = {
        value
        for entry in named
        for values in entry["figures"].values()
        for value in values.values()
    }
    numbers = re.findall(r"(?:top-[15]|AP|mIoU) (\d+\.\d+)", published)
    assert set(numbers) <= quoted
    own = [entry for entry in LEDGER if name in entry["figures"]]
    assert bool(own) == (not published.startswith("nothing"))
    metafile = read_metafile(PATHS[name].parent)
    (model,) = [model for model in metafile["Models"] if model["Name"] == name]
    first: dict[str, float] = {}
    for entry in own:
        for metric, value in entry["figures"][name].items():
            assert value in numbers
            first.setdefault(metric, float(value))
    written = {
        metric: value
        for result in model.get("Results", [])
        for metric, value in result["Metrics"].items()
    }
    assert written == first
    if own:
        assert label(own[0]) in model["Published In"]


@pytest.mark.parametrize("name", read_index())
def test_the_index_of_weights_quotes_the_ledger(name: str):
    weights = read_index()[name]
    (entry,) = [entry for entry in LEDGER if label(entry) == weights.published_in]
    config = Path(weights.config).stem if weights.config else name
    quoted = entry["figures"].get(config) or entry["figures"][name]
    written = {metric: float(value) for metric, value in quoted.items()}
    assert weights.published.items() <= written.items()
    assert weights.published
