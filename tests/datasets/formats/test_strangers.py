"""Exports of strangers become objects, a note or one sentence, at a bounded cost."""

import json
import random
import re
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exports
import pytest
from PIL import Image

from mmvitconv.datasets.formats.reading import read_folder
from mmvitconv.datasets.formats.writing import plain_masks, write_coco, write_masks
from mmvitconv.errors import UserError

KINDS = ("numbers", "palette", "colours")
EXPORTS: dict[str, Callable[[Path], None]] = exports.BOXES | {
    f"masks of {kind}": lambda root, kind=kind: exports.masks(root, kind) for kind in KINDS
}
VALUES: list[Any] = [
    *(None, True, 0, -1, 2.5, 2**63, 10**400, 1e12, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "a\nb\x1b[31m", "../../a.png", "a\0b", "100000000", "1e400"),
    *([], {}, [[]], [None], [1], ["x"], {"a": 1}, [1e12] * 5, [[0, 0]] * 3, 100_000, [255] * 3000),
    *({"size": [10**9, 10**9], "counts": [10**18]}, {"size": [60, 80], "counts": "zz"}, ["x"] * 6),
]
WORDS = (b"", b"-1", b"nan", b"1e400", b"9" * 400, b"99999999999", b"\0", b"<", b"\xff", b'"')


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def change_json(text: str, choose: random.Random) -> bytes:
    content = json.loads(text)
    spots = list(places(content))
    depth = choose.choice(sorted({len(path) for path in spots}))
    path = choose.choice([path for path in spots if len(path) == depth])
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if choose.random() < 0.2:
        del parent[path[-1]]
    else:
        parent[path[-1]] = choose.choice(VALUES)
    return json.dumps(content).encode()


def change_bytes(data: bytes, choose: random.Random) -> bytes:
    numbers = [found.span() for found in re.finditer(rb"-?\d+\.?\d*", data)]
    begin, end = choose.choice(numbers or [(len(data) // 2, len(data))])
    return data[:begin] + choose.choice(WORDS) + data[end:]


def read_and_write(root: Path, task: str, out: Path) -> None:
    data = read_folder(root, task)
    if task == "semantic" and not plain_masks(data):
        write_masks(out, data)
    for split, records in data.splits.items() if task != "semantic" else ():
        write_coco(out / f"{split}.json", records, data.classes)


def outcome(root: Path, task: str, out: Path) -> str:
    try:
        read_and_write(root, task, out)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", EXPORTS)
def test_a_changed_export_is_read_or_named(name: str, tmp_path: Path) -> None:
    EXPORTS[name](tmp_path / "honest")
    for seed in range(12):
        choose = random.Random(f"{name} {seed}")
        root = tmp_path / f"changed {seed}"
        shutil.copytree(tmp_path / "honest", root)
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        texts = [path for path in files if path.suffix in (".json", ".xml", ".txt", ".csv")]
        file = choose.choice(texts or files)
        if file.suffix == ".json":
            file.write_bytes(change_json(file.read_text(), choose))
        else:
            file.write_bytes(change_bytes(file.read_bytes(), choose))
        for task in ("detection", "instance", "semantic"):
            said = outcome(root, task, tmp_path / f"out {seed}")
            assert len(said) < 1500
            assert said.isprintable()


def brush(root: Path) -> None:
    exports.label_studio(root)
    file = root / "project-1-at-2026.json"
    content = json.loads(file.read_text())
    code = [255, 255, 255, 255, 0x3F, 0xFF, 0xF8, *[255] * 60_000]  # 4 GB in long runs
    result = next(task for task in content if task["annotations"][0]["result"])
    result["annotations"][0]["result"][0]["value"] = {"brushlabels": ["cat"], "rle": code}
    file.write_text(json.dumps(content))


def runs(root: Path) -> None:
    exports.cvat(root)
    file = root / "annotations.xml"
    file.write_text(re.sub(r'rle="0, \d+"', 'rle="0, 3000000000"', file.read_text()))


def sides(root: Path) -> None:
    exports.labelme(root)
    for file in root.rglob("*.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"imageHeight": 60_000, "imageWidth": 60_000}))


def lengths(root: Path) -> None:
    exports.coco(root)
    (file,) = root.rglob("*.json")
    content = json.loads(file.read_text())
    code = {"size": [60_000, 60_000], "counts": [0, 3_600_000_000]}
    for entry in content["annotations"]:
        entry["segmentation"] = code
    file.write_text(json.dumps(content))


def picture(root: Path) -> None:
    exports.masks(root, "numbers")
    for file in (root / "masks").rglob("*.png"):
        Image.new("1", (20_000, 20_000)).save(file)


@pytest.mark.parametrize("write", [brush, runs, sides, lengths, picture])
def test_a_mask_is_not_larger_than_an_image_may_be(write: Callable, tmp_path: Path) -> None:
    write(tmp_path / "data")
    task = "semantic" if write is picture else "instance"
    tracemalloc.start()
    try:
        outcome(tmp_path / "data", task, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
