"""Which paths of a config are missing, found before anything heavy is built.

A config may name one of the tiny data sets in its option ``data_source``, so that the message says
how to make it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmvitconv.datasets.listing import use_careful_listing, what_is_there
from mmvitconv.errors import UserError

__all__ = [
    "check_data",
    "find_missing",
    "is_remote",
    "leaf_datasets",
    "prepare_config",
    "type_name",
]

# What a config has as dicts of settings.
GROUPS = (
    *("model", "optim_wrapper", "default_hooks", "env_cfg", "randomness"),
    *(f"{split}_{what}" for split in ("train", "val", "test") for what in ("dataloader", "cfg")),
)


class Layout(NamedTuple):
    """What a data set looks like on disk and how to get it."""

    name: str
    tree: str
    origin: str  # one sentence; ``{root}`` is the configured folder


COCO = Layout(
    "COCO 2017",
    "annotations/instances_{train,val}2017.json  train2017/*.jpg  val2017/*.jpg",
    "Put COCO 2017 (https://cocodataset.org) at data/coco, or link it there: "
    "ln -s /where/coco/is data/coco; check it: mmvitconv check CONFIG",
)
# by the config's option data_source, else by the type of the dataset
LAYOUTS = {
    "nuclei": Layout(
        "nuclei (tiny)",
        "annotations/instances_{train,val}.json  train/  val/\n"
        "images/{training,validation}/  annotations/{training,validation}/",
        "Make it: mmvitconv data nuclei --out-dir {root}",
    ),
    "trees": Layout(
        "trees (tiny)",
        "annotations/instances_{train,val}.json  train/  val/",
        "Make it: mmvitconv data trees --out-dir {root}",
    ),
    "digits": Layout(
        "MNIST digits (tiny)",
        "train/<digit>/*.png  val/<digit>/*.png",
        "Make it: mmvitconv data digits --out-dir {root}",
    ),
    "CocoDataset": COCO,
    "CocoPanopticDataset": COCO,
    "ADE20KDataset": Layout(
        "ADE20K",
        "images/{training,validation}/*.jpg  annotations/{training,validation}/*.png",
        "Put ADEChallengeData2016 (http://sceneparsing.csail.mit.edu) at "
        "data/ade/ADEChallengeData2016, or link it there; check it: mmvitconv check CONFIG",
    ),
    "CityscapesDataset": Layout(
        "Cityscapes",
        "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png\n"
        "gtFine/{train,val}/<city>/*_gtFine_labelTrainIds.png",
        "Unpack leftImg8bit and gtFine (https://www.cityscapes-dataset.com) there, then make the "
        "label maps: mmvitconv data cityscapes --out-dir {root}; check it: mmvitconv check CONFIG",
    ),
    "PascalVOCDataset": Layout(
        "PASCAL VOC 2012 with SBD's masks",
        "JPEGImages/*.jpg  SegmentationClass/*.png  SegmentationClassAug/*.png\n"
        "ImageSets/Segmentation/{train,aug,val}.txt",
        "Put VOC 2012 (http://host.robots.ox.ac.uk/pascal/VOC) there, then add SBD's masks: "
        "mmvitconv data voc_aug --source SBD/dataset --out-dir {root}; check it: "
        "mmvitconv check CONFIG",
    ),
    "ImageNet": Layout(
        "ImageNet-1k",
        "train/<class>/*.JPEG  val/<class>/*.JPEG  (or val/*.JPEG with meta/val.txt)",
        "Put ImageNet-1k (https://image-net.org) at data/imagenet, or link it there; check it: "
        "mmvitconv check CONFIG",
    ),
}
GENERIC = Layout(
    "a data set of your own",
    "as data_root, data_prefix and ann_file of the config say",
    "Put it there, or change these settings.",
)


class Missing(NamedTuple):
    """One path that a config names and that does not exist."""

    path: str  # as the dataset would open it
    parent: str  # the topmost folder of it that is missing; the path itself if its folder exists
    layout: Layout  # what is expected there
    root: str  # ``data_root``, or the path itself where there is none
    option: str  # the key of ``--cfg-options`` that points elsewhere


def prepare_config(cfg: Any) -> None:
    """Complete a config: ``~`` in its paths, and the annotation files of its evaluators.

    Args:
        cfg: The config, changed in place. An evaluator on COCO's format that names no file takes
            the one of its data loader.

    Raises:
        UserError: A key whose value must be a dict has another one.
    """
    for key in GROUPS:
        value = cfg.get(key)
        if isinstance(value, (str, list, tuple, int, float)):
            kind = {"str": "a string", "list": "a list"}.get(type(value).__name__, repr(value)[:40])
            raise UserError(f"{key} must be a dict of settings, got {kind}: write {key}=dict(...)")
    for split in ("train", "val", "test"):
        leaves = [item for _, item in leaf_datasets(cfg.get(f"{split}_dataloader"), "")]
        for item in leaves:
            for key in ("data_root", "ann_file"):
                if str(item.get(key) or "").startswith("~"):
                    item[key] = os.path.expanduser(item[key])
            prefix = item.get("data_prefix")
            for key, value in prefix.items() if isinstance(prefix, dict) else ():
                if str(value).startswith("~"):
                    prefix[key] = os.path.expanduser(value)
        for _, metric in as_items(cfg.get(f"{split}_evaluator"), ""):
            path = metric.get("ann_file")
            if str(path or "").startswith("~"):
                metric["ann_file"] = os.path.expanduser(path)
            is_coco = type_name(metric) == "CocoMetric"
            if is_coco and not path and len(leaves) == 1 and leaves[0].get("ann_file"):
                root = leaves[0].get("data_root") or ""
                metric["ann_file"] = os.path.join(root, leaves[0]["ann_file"])


def check_data(cfg: Mapping[str, Any], splits: Sequence[str] = ("train", "val")) -> None:
    """Check that the data of a config exists, in milliseconds, before datasets list their files.

    Args:
        cfg: a config of mmdet, mmseg or mmpretrain: ``mmengine.Config`` or a plain dict.
        splits: those that will be used, of 'train', 'val' and 'test'. A split whose dataloader is
            missing or None is left out. Paths on other machines (``s3://...``, or ``backend_args``
            with another backend than 'local') are not looked at.

    Raises:
        UserError: one message with every missing path, the layout expected, and how to get it.
    """
    use_careful_listing()
    if missing := find_missing(cfg, splits):
        raise UserError(missing_message(missing))


def find_missing(cfg: Mapping[str, Any], splits: Sequence[str] = ("train", "val")) -> list[Missing]:
    """Return the missing paths, those with the shortest missing parent first.

    Args:
        cfg: see :func:`check_data`.
        splits: see :func:`check_data`.

    Returns:
        One entry per missing path and option; empty if all is there.

    Raises:
        UserError: if ``splits`` has an unknown name.
    """
    unknown = sorted(set(splits) - {"train", "val", "test"})
    if unknown:
        raise UserError(f"unknown split {unknown[0]!r}; use 'train', 'val' or 'test'")
    scope = cfg.get("default_scope") or ""
    source = LAYOUTS.get(cfg.get("data_source") or "")
    needed: list[tuple[str, Layout, str, str]] = []
    layouts: dict[str, Layout] = {}
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        for option, dataset in leaf_datasets(loader, f"{split}_dataloader"):
            root = dataset.get("data_root")
            key = f"{option}.{'data_root' if root else 'ann_file'}"
            for path in dataset_paths(dataset, scope):
                layouts[path] = source or LAYOUTS.get(type_name(dataset), GENERIC)
                needed.append((path, layouts[path], str(root or path), key))
    for split in splits:
        for option, evaluator in as_items(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            path = evaluator.get("ann_file")
            if isinstance(path, str) and path and not is_remote(path, evaluator):
                # The evaluator knows no data set: take the layout from the dataset of that file.
                needed.append((path, layouts.get(path, GENERIC), path, f"{option}.ann_file"))
    found = [
        Missing(path, missing_parent(path), *rest)
        for path, *rest in needed
        if not os.path.isdir(path) and not os.path.isfile(path)
    ]
    return sorted(found, key=lambda entry: (len(entry.parent), entry.parent))


def as_items(node: Any, option: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a mapping, or the mappings of a list, each with its key for ``--cfg-options``."""
    if isinstance(node, Mapping):
        yield option, node
    elif isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from as_items(item, f"{option}.{index}")


def leaf_datasets(node: Any, option: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the datasets inside a dataloader or wrapper that read files themselves."""
    for key, item in as_items(node, option):
        wrapped = [name for name in ("dataset", "datasets") if item.get(name)]
        for name in wrapped:
            yield from leaf_datasets(item[name], f"{key}.{name}")
        if not wrapped and "dataloader" not in key.rpartition(".")[2]:
            yield key, item


def dataset_paths(dataset: Mapping[str, Any], scope: str) -> list[str]:
    """Return the local paths that a dataset opens, joined as MMEngine's ``BaseDataset`` does."""
    prefix = dataset.get("data_prefix") or {}
    # mmpretrain's ImageNet takes the name of the split as the folder.
    prefix = prefix or (dataset.get("split") if type_name(dataset) == "ImageNet" else None) or {}
    folders = [prefix] if isinstance(prefix, str) else list(prefix.values())
    files = dataset.get("ann_file") or []
    files = [files] if isinstance(files, str) else list(files)
    names = [dataset.get("classes"), (dataset.get("metainfo") or {}).get("classes")]
    root = dataset.get("data_root") or ""
    kind = str(dataset.get("type", ""))
    is_mmpretrain = kind.startswith("mmpretrain.") or (scope == "mmpretrain" and "." not in kind)
    paths = [path for path in (*(folders or [""]), *files) if isinstance(path, str)]
    if is_mmpretrain:
        paths = map(os.path.expanduser, paths)
    paths = [path if is_remote(path) else os.path.join(root, path) for path in paths]
    paths += [name for name in names if isinstance(name, str)]  # a file with a name in each line
    return list(dict.fromkeys(path for path in paths if path and not is_remote(path, dataset)))


def is_remote(path: str, node: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a path, or a dataset or evaluator that reads it, is not on this machine."""
    backend = ((node or {}).get("backend_args") or {}).get("backend", "local")
    return "://" in path or backend not in ("local", "LocalBackend")


def missing_parent(path: str) -> str:
    """Return the topmost folder of a path that does not exist, or the path itself."""
    parent = path.rstrip("/") or path
    while (above := os.path.dirname(parent)) and not os.path.exists(above):
        parent = above
    return parent


def type_name(dataset: Mapping[str, Any]) -> str:
    """Return the type of a dataset without its scope; types may be names or classes."""
    kind = dataset.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def missing_message(missing: Sequence[Missing]) -> str:
    """Write the message for missing paths, not empty."""
    lines = ["the data that the config names is not there. Missing:"]
    for parent in dict.fromkeys(entry.parent for entry in missing):
        paths = dict.fromkeys(e.path.rstrip("/") for e in missing if e.parent == parent)
        paths.pop(parent, None)
        there = what_is_there(parent)
        broken = f" ({there})" if there else ""
        inside = f"  (needed: {', '.join(paths)})" if paths else ""
        lines.append(f"  {parent}{broken}{inside}")
    # Two splits of one data set need its layout once.
    sources: dict[tuple[Layout, str], None] = {}
    for entry in missing:
        root = entry.root if entry.option.endswith("data_root") else ""
        if root or not any(entry.layout is layout for layout, _ in sources):
            sources[entry.layout, root] = None
    for layout, root in sources:
        where = f" in {root}" if root else ""
        lines.append(f"Layout expected{where} ({layout.name}):")
        lines += [f"  {line}" for line in layout.tree.splitlines()]
        lines.append(layout.origin.replace("{root}", shlex.quote(root or "FOLDER")))
    options = " ".join(
        dict.fromkeys(
            f"{entry.option}={'/your/path' if entry.option.endswith('data_root') else '/your/file'}"
            for entry in sorted(missing, key=lambda entry: entry.option.split("_")[0] != "train")
        )
    )
    lines.append(f"If it is elsewhere: --cfg-options {options}")
    return "\n".join(lines)
