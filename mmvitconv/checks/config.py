"""All the data that a config names, checked as training and evaluation would load them.

Every sample goes through the loading part of the config's own pipeline with the checks of
:mod:`mmvitconv.checks.samples`: what a run would refuse or leave out is an error here.
"""

from __future__ import annotations

import copy
import functools
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader

from mmvitconv.checks.annotations import Report, check_coco_file
from mmvitconv.checks.samples import (
    BadSampleError,
    CheckedPipeline,
    Problem,
    class_numbers,
    conversions,
    paths_of,
    sample_infos,
)
from mmvitconv.datasets.layout import as_items, is_remote, leaf_datasets
from mmvitconv.datasets.listing import use_careful_listing
from mmvitconv.datasets.progress import progress
from mmvitconv.engine.configuration import legal_arguments
from mmvitconv.errors import UserError

__all__ = ["SPLITS", "check_config", "check_datasets", "take_sample"]

SPLITS = ("train", "val", "test")
NO_ANNOTATIONS = (
    "the list annotations is empty",
    "annotation file lacks one of the lists images, annotations, categories",
)
CONVERSIONS = {
    "grayscale": "grayscale image, read as three equal colours",
    "CMYK": "CMYK image, read as RGB",
    "palette": "palette image, read as RGB",
    "transparent": "image with a fourth band, read as transparency and dropped",
    "16-bit": "16-bit image, read with 8 bits; mmvitconv.LoadBands rescales it",
    "EXIF-rotated": "EXIF-rotated image, turned on reading",
}


def check_config(
    cfg: Config,
    splits: Sequence[str] | None = None,
    sample: int | None = None,
    workers: int = 0,
) -> Report:
    """Check the data of a config of mmdet, mmseg or mmpretrain.

    Args:
        cfg: The config.
        splits: Of 'train', 'val' and 'test'; default: those that the config has.
        sample: Samples per dataset whose files are opened; None for all.
        workers: Processes that open files; 0 for this one.

    Returns:
        The report.

    Raises:
        UserError: If the config has no such split, or a dataset cannot be built.
    """
    present = [split for split in SPLITS if cfg.get(f"{split}_dataloader")]
    wanted = [split for split in present if split in (splits or present)]
    absent = sorted(set(splits or ()) - set(present))
    if absent or not present:
        raise UserError(
            f"the config has no {' and no '.join(f'{s}_dataloader' for s in absent or SPLITS)}"
            + (f"; it has the splits {', '.join(present)}" if present else "")
        )
    datasets: list[tuple[str, str, Mapping[str, Any]]] = []
    for split in wanted:
        leaves = list(leaf_datasets(cfg[f"{split}_dataloader"], f"{split}_dataloader"))
        if not leaves:
            raise UserError(f"{split}_dataloader of the config has no dataset")
        done = [settings for _, _, settings in datasets]  # test is often the same as val
        datasets += [(option, split, item) for option, item in leaves if item not in done]
    model = cfg.get("model") or {}
    head = model.get("head") or model.get("decode_head")
    num_classes = head.get("num_classes") if isinstance(head, Mapping) else None
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        report = check_datasets(datasets, num_classes, sample, workers)
    for split in wanted:
        _check_evaluators(report, cfg, split)
    return report


def check_datasets(
    datasets: Iterable[tuple[str, str, Mapping[str, Any]]],
    num_classes: int | None = None,
    sample: int | None = None,
    workers: int = 0,
) -> Report:
    """Check datasets given by their configs, types looked up in the current scope.

    Args:
        datasets: For each, its name or its place in the config, its split, and its settings.
        num_classes: Number of classes of the model, if it is known; >= 1.
        sample: See :func:`check_config`.
        workers: See :func:`check_config`.

    Returns:
        The report.

    Raises:
        UserError: If a dataset cannot be built.
    """
    use_careful_listing()
    check = _Check(num_classes, sample, workers)
    for option, split, settings in datasets:
        check.add(option, split, settings)
    # class folders number the classes
    every = sorted({label for labels in check.folders.values() for label in labels})
    kind = "class folder is missing, so that classes get other numbers"
    for name, labels in check.folders.items():
        for label in sorted(set(every) - set(labels)):
            check.report.error(kind, f"{name}: {label}")
    return check.report


def take_sample(items: Sequence[Any], size: int | None) -> list[Any]:
    """Choose items evenly over the whole sequence, always the same ones.

    Args:
        items: What to choose from.
        size: How many, >= 0; None for all.

    Returns:
        ``min(size, len(items))`` items in their order.
    """
    if size is None or size >= len(items):
        return list(items)
    return [items[i * len(items) // size] for i in range(size)]


def _check_evaluators(report: Report, cfg: Config, split: str) -> None:
    """Compare the annotation files of the evaluators of a split with those of its datasets."""
    used = {
        os.path.realpath(os.path.join(item.get("data_root") or "", item["ann_file"]))
        for _, item in leaf_datasets(cfg[f"{split}_dataloader"], "")
        if item.get("ann_file")
    }
    for option, evaluator in as_items(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
        path = evaluator.get("ann_file")
        is_local = isinstance(path, str) and not is_remote(path, evaluator)
        if is_local and used and os.path.realpath(path) not in used:
            report.error("evaluator has another annotation file than its data", f"{option}: {path}")


@dataclass
class _Check:
    """The check of several datasets, see :func:`check_datasets`."""

    num_classes: int | None
    sample: int | None
    workers: int
    report: Report = field(default_factory=Report)
    files: dict[str, str] = field(default_factory=dict)  # split of each image, by its real path
    folders: dict[str, list[str]] = field(default_factory=dict)  # of datasets named by folders

    def add(self, option: str, split: str, settings: Mapping[str, Any]) -> None:
        """Check a dataset."""
        dataset, transforms = _build(option, settings)
        name = option.replace("_dataloader", "").replace(".dataset", "")
        if not self._read_annotations(dataset, name, split):
            self.report.rows.append((name, 0, 0))
            return
        if hasattr(dataset, "folder_to_idx"):
            self.folders[name] = list(dataset.folder_to_idx)
        pipeline = CollectingPipeline(transforms, dataset, self.num_classes, loading_only=True)
        infos = list(sample_infos(dataset))
        if not infos:
            self.report.error("no samples", name)
        if pipeline.has_class_maps and pipeline.is_local:
            _check_unused_maps(self.report, dataset, infos)
        labels: Counter[int] = Counter()
        for info in infos:
            labels.update(class_numbers(info))
        inside = self._check_paths(name, split, infos, pipeline)
        opened = take_sample(inside, self.sample)
        if pipeline.is_local and len(opened) < len(inside):
            self._check_presence(infos[number] for number in set(inside) - set(opened))
        results = DataLoader(
            opened,
            batch_size=None,
            collate_fn=functools.partial(_examine, pipeline, infos),
            num_workers=min(self.workers, len(opened)),
            worker_init_fn=_use_one_thread,
        )
        for errors, warnings, found in progress(results, f"{name}: files"):
            for tell, problems in ((self.report.error, errors), (self.report.warn, warnings)):
                for kind, file, detail in problems:
                    tell(kind, f"{file}: {detail}" if detail else file)
            labels.update(found)
        self.report.rows.append((name, len(infos), sum(labels.values())))
        # label maps that were not opened may have any class
        if not pipeline.has_class_maps or len(opened) == len(infos):
            self._check_classes(name, dataset, labels)

    def _read_annotations(self, dataset: Any, name: str, split: str) -> bool:
        """Let a dataset read its annotations; False (and an error) when it cannot."""
        path = getattr(dataset, "ann_file", "")
        own = Report()
        has_json = hasattr(type(dataset), "COCOAPI") and isinstance(path, str)
        if has_json and not is_remote(path, vars(dataset)):
            classes = dataset.metainfo.get("classes") or ()
            check_coco_file(own, Path(path), classes, split != "train")
        for kind, examples in own.errors.items():
            # the test images of a benchmark have no annotations
            may_lack = split == "test" and kind in NO_ANNOTATIONS
            (self.report.warn if may_lack else self.report.error)(kind, *examples)
        for kind, examples in own.warnings.items():
            self.report.warn(kind, *examples)
        try:
            with redirect_stdout(io.StringIO()):  # pycocotools prints
                dataset.full_init()
        except Exception as error:
            if not own.errors:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                self.report.error("annotations cannot be read", f"{name}: {text}")
            return False
        return True

    def _check_paths(
        self,
        name: str,
        split: str,
        infos: Sequence[Mapping[str, Any]],
        pipeline: CheckedPipeline,
    ) -> list[int]:
        """Check where the files of the samples are; return the samples inside the data root."""
        inside = []
        images: Counter[str] = Counter()
        for number, info in enumerate(infos):
            try:
                pipeline.roots.check(info, info.get("img_id", number))
            except UserError as error:
                self.report.error("file is outside the data root", error)
                continue
            inside.append(number)
            images.update(paths_of(info)[:1])
        for path, count in images.items():
            if count > 1:
                self.report.warn("image is listed more than once", f"{name}: {path}")
            other = self.files.setdefault(os.path.realpath(path), split)
            if other != split:
                self.report.warn("image is in two splits", f"{path}: {other} and {split}")
        return inside

    def _check_presence(self, infos: Iterable[Mapping[str, Any]]) -> None:
        """Check that the files of samples exist that are not opened."""
        names: dict[str, set[str]] = {}
        for path in sorted(path for info in infos for path in paths_of(info)):
            folder, name = os.path.split(path)
            if folder not in names:  # network drives are slow: one listing, not a question per file
                names[folder] = _files_in(folder)
            if name not in names[folder] and not is_remote(path):
                self.report.error("file is missing", path)

    def _check_classes(self, name: str, dataset: Any, labels: Mapping[int, int]) -> None:
        """Compare the classes of a dataset with the labels in use and with the model."""
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
        if not isinstance(classes, (list, tuple)):
            return
        for number, label in enumerate(classes if labels else ()):
            if not labels[number]:
                self.report.warn("class without a sample in a split", f"{name}: {label}")
        if self.num_classes and len(classes) != self.num_classes:
            tell = self.report.error if len(classes) > self.num_classes else self.report.warn
            tell(f"not {self.num_classes} classes, as the model has", f"{name}: {len(classes)}")


def _files_in(folder: str) -> set[str]:
    """Return the names of the files in a folder, if there is one; folders and pipes are none."""
    if not os.path.isdir(folder):
        return set()
    with os.scandir(folder) as entries:
        # only links ask the disk again
        return {
            e.name for e in entries if (os.path.isfile(e.path) if e.is_symlink() else e.is_file())
        }


def _build(option: str, settings: Mapping[str, Any]) -> tuple[Any, Compose]:
    """Build a dataset that has not read its annotations yet, and its pipeline."""
    settings = copy.deepcopy(dict(settings))
    try:
        transforms = Compose(settings.pop("pipeline", []))
        found = kind = settings.get("type")
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(None) as registry:
                found = registry.get(kind)
        if found is None:
            raise UserError(f"{kind!r} is not a known dataset type")
        legal = legal_arguments(found)
        # everything is to be seen, also what training leaves out
        wanted = {"lazy_init": True, "serialize_data": False, "filter_cfg": None, "pipeline": []}
        settings.update({key: wanted[key] for key in wanted if legal is None or key in legal})
        return DATASETS.build(settings), transforms
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(f"{option}: the dataset cannot be built: {text}") from error


def _check_unused_maps(report: Report, dataset: Any, infos: Sequence[Mapping[str, Any]]) -> None:
    """Name the label maps whose image is not there; mmseg lists the images only."""
    folder = (getattr(dataset, "data_prefix", None) or {}).get("seg_map_path")
    suffix = getattr(dataset, "seg_map_suffix", None)
    # an annotation file may choose from the folder
    if not folder or not suffix or getattr(dataset, "ann_file", "") or not os.path.isdir(folder):
        return
    used = {os.path.abspath(str(info.get("seg_map_path"))) for info in infos}
    for path in sorted(Path(folder).rglob(f"*{suffix}")):
        if os.path.abspath(path) not in used:
            report.warn("label map without an image", path)


class CollectingPipeline(CheckedPipeline):
    """A checked pipeline that finds all that is wrong with a sample, not only the first."""

    found: list[Problem]

    def complain(self, problem: Problem) -> None:
        """Keep a problem and go on."""
        self.found.append(problem)


def _examine(
    pipeline: CollectingPipeline, infos: Sequence[Mapping[str, Any]], number: int
) -> tuple[list[Problem], list[Problem], list[int]]:
    """Open a sample; return what is wrong, what is unusual, and the labels in its label map."""
    info = dict(copy.deepcopy(infos[number]), sample_idx=number)
    path = next(iter(paths_of(info)), "")
    errors = pipeline.found = []
    warnings: list[Problem] = []
    loaded = None
    with _decoder_messages() as messages:
        try:
            loaded = pipeline(info)
        except BadSampleError as bad:
            errors.append(bad.problem)
    if loaded is None:
        return errors, warnings, []
    kind = "file is damaged, what can be decoded of it is used"
    errors += [Problem(kind, path, text) for text in messages]
    if pipeline.is_local and pipeline.is_converted and os.path.isfile(path):
        warnings += [Problem(CONVERSIONS[kind], path) for kind in conversions(path)]
    labels: list[int] = []
    values = loaded.get("gt_seg_map") if isinstance(loaded, Mapping) else None
    if isinstance(values, np.ndarray) and pipeline.has_class_maps:
        labels = np.setdiff1d(values, [pipeline.ignore_index]).tolist()
        if not labels:
            kind = "label map in which everything is ignored"
            warnings.append(Problem(kind, str(info.get("seg_map_path", path))))
    return list(dict.fromkeys(errors)), warnings, labels


def _use_one_thread(worker: int) -> None:
    """Keep OpenCV from starting threads in each process."""
    cv2.setNumThreads(0)


@contextmanager
def _decoder_messages() -> Iterator[list[str]]:
    """Collect what libjpeg writes to stderr about damaged data that it decodes nevertheless."""
    found: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read().decode(errors="replace")
            found += re.findall(r"Corrupt JPEG data: [^\n]*|Premature end of JPEG[^\n]*", text)
