"""Every node of a COCO json, replaced by what does not belong there."""

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_data import json_of
from checks.test_bad_data import Drive
from mmengine.registry import METRICS, DefaultScope

from mmvitconv.checks.bad_data import BadDataHook
from mmvitconv.cli.runs import errors_before_loop
from mmvitconv.errors import UserError


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.5, 7, 2**31, 2**63, 10**400, -(10**400)),
    *(1e12, -1e12, 1e39, 1e308, math.nan, math.inf, -math.inf),
    *("", "x", "0", "\ud800", "a\nb\x1b[31m", "../../a.png", "/etc/passwd", "a\0b", "x" * 100_000),
    *([], {}, [[]], [None], [1], ["x"], {"a": 1}, nested(60), [0] * 10_000, [1e12] * 6),
    *([[0, 0, 190, 190] * 20_000], {"size": [192, 192], "counts": [7]}),
    *({"size": [10**9, 10**9], "counts": [10**18]}, {"size": [192, 192], "counts": "zz\u00e9"}),
    {"size": [192, 192], "counts": [192 * 192, -5, 5]},
]


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every node below a json's root."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def mutate(content: dict, choose: random.Random) -> tuple[Any, str]:
    """Change one to three nodes; returns the json and what was done."""
    content, done = copy.deepcopy(content), []
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        spots = sorted(places(content), key=lambda path: (len(path), str(path)))
        depths = sorted({len(path) for path in spots})
        depth = choose.choice(depths)  # few nodes are near the root
        path = choose.choice([path for path in spots if len(path) == depth])
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        action = choose.choice(("replace", "replace", "replace", "remove", "repeat"))
        if action == "remove":
            del parent[path[-1]]
        elif action == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        else:
            number = choose.randrange(len(VALUES))
            parent[path[-1]] = copy.deepcopy(VALUES[number])
            action = f"VALUES[{number}] to"
        done.append(f"{action} {path}")
    return content, "; ".join(done)


def train_and_evaluate(cfg: dict, evaluator: dict, folder: Path) -> None:
    """What a run does with annotations, without a model."""
    with errors_before_loop() as loop:
        loop.explain_by_annotations(cfg, ("train", "val"))
        drive = Drive(cfg, folder)
        with DefaultScope.overwrite_default_scope("mmdet"):
            metric = METRICS.build(evaluator)
        hook = BadDataHook(max_bad=8)
        hook.before_train(drive)
        loop.begin()
    metric.dataset_meta = drive.val_loop.dataloader.dataset.metainfo
    drive.train(hook)
    hook.before_val(drive)
    for batch in drive.val_loop.dataloader:
        for sample in batch["data_samples"]:
            shape = sample.ori_shape
            found = {
                "bboxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]]),
                "scores": torch.tensor([0.9]),
                "labels": torch.tensor([0]),
                "masks": torch.ones(1, *shape, dtype=torch.bool),
            }
            metric.process(batch, [{**sample.metainfo, "pred_instances": found}])
    metric.evaluate(len(drive.val_loop.dataloader.dataset))


# the last five failed once
SEEDS = [*range(40), 7000, 7039, 7055, 7099, 7104]


@pytest.fixture(scope="module")
def small(nuclei_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """A data set with two objects in each image; the contents of its two files."""
    from broken_data import build

    root = build("detection", nuclei_root, tmp_path_factory.mktemp("data") / "data")
    contents = {}
    for split in ("train", "val"):
        content = json.loads(json_of(root, split).read_text())
        content["images"] = content["images"][:3]
        kept = []
        for image in content["images"]:
            own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            kept += own[:2]
        for annotation in kept[::2]:  # both kinds of masks
            left, top, width, height = annotation["bbox"]
            right, bottom = left + width, top + height
            corners = [left, top, right, top, right, bottom, left, bottom]
            annotation["segmentation"] = [corners]
        content["annotations"] = kept
        contents[split] = content
    return root, contents["train"], contents["val"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_trains_or_names_the_file(
    seed: int, small: tuple[Path, dict, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from broken_data import loaders

    root, *originals = small
    choose = random.Random(seed)
    broken = choose.randrange(2)
    changed, done = mutate(originals[broken], choose)
    contents = [*originals]
    contents[broken] = changed
    for split, content in zip(("train", "val"), contents, strict=True):
        json_of(root, split).write_text(json.dumps(content))
    cfg = loaders("detection", root)
    evaluator = {
        "type": "CocoMetric",
        "metric": ["bbox", "segm"],
        "ann_file": str(json_of(root, "val")),
    }
    try:
        train_and_evaluate(cfg, evaluator, tmp_path)
    except UserError as error:
        sentence = str(error)
        assert json_of(root, ("train", "val")[broken]).name in sentence, done
        assert "\n" not in sentence, done
        assert sentence.isprintable(), done
        assert len(sentence) < 1500, done
    except Exception as error:
        raise AssertionError(f"{done}: {type(error).__name__}") from error
