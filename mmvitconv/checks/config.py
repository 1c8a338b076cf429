"""Checks all the data that a config names, as training and evaluation would load them.

Every sample goes through the loading part of the config's own pipeline with the checks of
:mod:`mmvitconv.checks.samples`: what a run would refuse or leave out is an error here.
"""

from __future__ import annotations

import copy
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader, Dataset

from mmvitconv.checks.annotations import Report, check_coco_file, take_sample
from mmvitconv.checks.samples import (
    BadSampleError,
    CheckedPipeline,
    Problem,
    class_numbers,
    conversions,
    paths_of,
    sample_infos,
)
from mmvitconv.datasets.layout import is_remote, leaf_datasets
from mmvitconv.datasets.progress import progress
from mmvitconv.engine.configuration import legal_arguments
from mmvitconv.errors import UserError

__all__ = ["SPLITS", "check_config"]

SPLITS = ("train", "val", "test")
NO_ANNOTATIONS = (
    "the list annotations is empty",
    "annotation file lacks one of the lists images, annotations, categories",
)
COLOURS = {
    "grayscale": "grayscale image, read as three equal colours",
    "CMYK": "CMYK image, read as RGB",
    "palette": "palette image, read as RGB",
    "transparent": "image with transparency, which is dropped",
    "16-bit": "16-bit image, read with 8 bits",
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
        UserError: When the config has no such split or a dataset cannot be had at all.
    """
    present = [split for split in SPLITS if cfg.get(f"{split}_dataloader")]
    absent = sorted(set(splits or ()) - set(present))
    if absent or not present:
        raise UserError(
            f"the config has no {' and no '.join(f'{s}_dataloader' for s in absent or SPLITS)}"
            + (f"; it has the splits {', '.join(present)}" if present else "")
        )
    report = Report()
    done: list[Any] = []
    files: dict[str, str] = {}
    folders: dict[str, tuple[str, list[str]]] = {}
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        for split in [split for split in SPLITS if split in (splits or present)]:
            leaves = list(leaf_datasets(cfg[f"{split}_dataloader"], f"{split}_dataloader"))
            if not leaves:
                raise UserError(f"{split}_dataloader of the config has no dataset")
            for option, settings in leaves:
                if settings in done:  # test is often the same as val
                    continue
                done.append(settings)
                dataset, transforms = _build(option, settings)
                name = option.replace("_dataloader", "").replace(".dataset", "")
                if not _read_annotations(report, dataset, name, split):
                    report.rows.append((name, 0, 0))
                    continue
                if hasattr(dataset, "folder_to_idx"):
                    folders[name] = (split, list(dataset.folder_to_idx))
                checked = CollectingPipeline(
                    transforms, dataset, num_classes=_num_classes(cfg), loading_only=True
                )
                _check_samples(report, dataset, checked, name, split, sample, workers, files)
    _check_folders(report, folders)
    return report


def _build(option: str, settings: Mapping[str, Any]) -> tuple[Any, Compose]:
    """Build a dataset that has not read its annotations yet, and its pipeline."""
    settings = copy.deepcopy(dict(settings))
    try:
        transforms = Compose(settings.pop("pipeline", []))
        kind = settings.get("type")
        found = kind
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


def _num_classes(cfg: Config) -> int | None:
    """Number of classes of the model of a config, where it has one head."""
    model = cfg.get("model") or {}
    head = model.get("head") or model.get("decode_head")
    return head.get("num_classes") if isinstance(head, Mapping) else None


def _read_annotations(report: Report, dataset: Any, name: str, split: str) -> bool:
    """Let a dataset read its annotations; False (and an error) when it cannot."""
    path = getattr(dataset, "ann_file", "")
    own = Report()
    if (
        hasattr(type(dataset), "COCOAPI")
        and isinstance(path, str)
        and not is_remote(path, vars(dataset))
    ):
        check_coco_file(own, Path(path), dataset.metainfo.get("classes") or ())
    for kind, examples in own.errors.items():
        # the test images of a benchmark have no annotations
        tell = report.warn if split == "test" and kind in NO_ANNOTATIONS else report.error
        for example in examples:
            tell(kind, example)
    for kind, examples in own.warnings.items():
        for example in examples:
            report.warn(kind, example)
    try:
        with redirect_stdout(io.StringIO()):  # pycocotools prints
            dataset.full_init()
    except Exception as error:
        if not own.errors:
            text = " ".join(str(error).split())
            report.error("annotations cannot be read", f"{name}: {type(error).__name__}: {text}")
        return False
    return True


def _check_samples(
    report: Report,
    dataset: Any,
    checked: CheckedPipeline,
    name: str,
    split: str,
    sample: int | None,
    workers: int,
    files: dict[str, str],
) -> None:
    """Check the samples of a dataset, and open them."""
    infos = list(sample_infos(dataset))
    if not infos:
        report.error("no samples", name)
    labels: Counter[int] = Counter()
    images: Counter[str] = Counter()
    openable = []
    for number, info in enumerate(infos):
        labels.update(class_numbers(info))
        try:
            checked.roots.check(info, info.get("img_id", number))
        except UserError as error:
            report.error("file is outside the data root", error)
            continue
        openable.append(number)
        images.update(paths_of(info)[:1])
    for path, count in images.items():
        if count > 1:
            report.warn("image is listed more than once", f"{name}: {path}")
        other = files.setdefault(os.path.realpath(path), split)
        if other != split:
            report.warn("image is in two splits", f"{path}: {other} and {split}")
    if checked.has_class_maps and checked.is_local:
        _check_unused_maps(report, dataset, infos)
    examiner = Examiner(infos, take_sample(openable, sample), checked)
    for errors, warnings, found in progress(_in_processes(examiner, workers), f"{name}: files"):
        for problem in errors:
            report.error(problem.kind, _line(problem))
        for problem in warnings:
            report.warn(problem.kind, _line(problem))
        labels.update(found)
    report.rows.append((name, len(infos), sum(labels.values())))
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    # label maps that were not opened may have it
    is_known = not checked.has_class_maps or len(examiner) == len(infos)
    if isinstance(classes, (list, tuple)) and labels and is_known:
        for number, label in enumerate(classes):
            if not labels[number]:
                report.warn("class without a sample in a split", f"{name}: {label}")


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


def _check_folders(report: Report, folders: Mapping[str, tuple[str, list[str]]]) -> None:
    """Compare the class folders of the datasets, which number the classes."""
    every = sorted({label for _, labels in folders.values() for label in labels})
    for name, (_, labels) in folders.items():
        for label in sorted(set(every) - set(labels)):
            report.error(
                "class folder is missing, so that classes get other numbers", f"{name}: {label}"
            )


class CollectingPipeline(CheckedPipeline):
    """A checked pipeline that finds all that is wrong with a sample, not only the first.

    Attributes:
        found: What was wrong; emptied by the user.
    """

    found: list[Problem]

    def complain(self, problem: Problem) -> None:
        """Keep a problem and go on.

        Args:
            problem: What is wrong.
        """
        self.found.append(problem)


class Examiner(Dataset):
    """Opens samples one by one; a dataset, so that PyTorch's loader spreads it over processes.

    Args:
        infos: What the annotations say about each sample.
        chosen: Numbers of the samples to open.
        pipeline: Loads and checks them.
    """

    def __init__(
        self, infos: Sequence[Mapping[str, Any]], chosen: Sequence[int], pipeline: CheckedPipeline
    ) -> None:
        self.infos = infos
        self.chosen = chosen
        self.pipeline = pipeline

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[list[Problem], list[Problem], list[int]]:
        """Open a sample.

        Args:
            index: Its place among the chosen ones.

        Returns:
            What is wrong, what is unusual, and the labels in its label map.
        """
        number = self.chosen[index]
        info = dict(_copy(self.infos[number]), sample_idx=number)
        path = next(iter(paths_of(info)), "")
        errors = self.pipeline.found = []
        warnings: list[Problem] = []
        loaded = None
        with _decoder_messages() as messages:
            try:
                loaded = self.pipeline(info)
            except BadSampleError as bad:
                errors.append(bad.problem)
        if loaded is None:
            return errors, warnings, {}
        kind = "file is damaged, what can be decoded of it is used"
        errors += [Problem(kind, path, text) for text in messages]
        if self.pipeline.is_local and os.path.isfile(path):
            warnings += [Problem(COLOURS[kind], path) for kind in conversions(path)]
        labels: list[int] = []
        values = loaded.get("gt_seg_map") if isinstance(loaded, Mapping) else None
        if isinstance(values, np.ndarray) and self.pipeline.has_class_maps:
            labels = np.setdiff1d(values, [self.pipeline.ignore_index]).tolist()
            if not labels:
                kind = "label map in which everything is ignored"
                warnings.append(Problem(kind, str(info.get("seg_map_path", path))))
        return list(dict.fromkeys(errors)), warnings, labels


def _copy(info: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what transforms change: the lists and the dicts of the instances."""
    copied = dict(info)
    for key, value in copied.items():
        if isinstance(value, list):
            copied[key] = [dict(item) if isinstance(item, dict) else item for item in value]
    return copied


def _in_processes(examiner: Examiner, workers: int) -> Any:
    """Return an iterable with a length over all results, in their order."""
    return DataLoader(
        examiner,
        batch_size=None,
        num_workers=min(workers, len(examiner)),
        collate_fn=_unchanged,
        worker_init_fn=_use_one_thread,
    )


def _unchanged(item: Any) -> Any:
    """Leave a result as it is."""
    return item


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


def _line(problem: Problem) -> str:
    """Write a problem whose kind is said elsewhere."""
    return problem.file + (f": {problem.detail}" if problem.detail else "")
