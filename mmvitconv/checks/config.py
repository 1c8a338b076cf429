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
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader

from mmvitconv.checks.agreement import Facts, check_agreement, check_metainfo
from mmvitconv.checks.annotations import (
    FLAT_MASKS,
    IS_CROWD,
    LARGE_SHARE,
    OTHER_CATEGORIES,
    Report,
    Written,
    check_coco_file,
)
from mmvitconv.checks.effects import check_effects
from mmvitconv.checks.ignored import check_ignored
from mmvitconv.checks.keys import check_keys
from mmvitconv.checks.learnt import Images
from mmvitconv.checks.samples import (
    UNLOADABLE,
    BadSampleError,
    CheckedPipeline,
    Problem,
    class_numbers,
    paths_of,
    sample_infos,
)
from mmvitconv.checks.steps import (
    Failure,
    describe,
    explain_step,
    find_early_steps,
    find_late_steps,
)
from mmvitconv.checks.values import check_values
from mmvitconv.datasets.jsons import without_collections
from mmvitconv.datasets.layout import (
    as_items,
    is_remote,
    leaf_datasets,
    prepare_config,
    type_name,
)
from mmvitconv.datasets.listing import use_careful_listing
from mmvitconv.datasets.map_values import MapValues, count_values
from mmvitconv.datasets.progress import progress
from mmvitconv.engine.configuration import legal_arguments, walk
from mmvitconv.errors import UserError, root_cause, shorten

__all__ = [
    "SPLITS",
    "allowed_bad",
    "check_config",
    "check_datasets",
    "take_sample",
]

SPLITS = ("train", "val", "test")
CONVERSIONS = {
    "grayscale": "grayscale image, read as three equal colours",
    "CMYK": "CMYK image, read as RGB",
    "palette": "palette image, read as RGB",
    "transparent": "image with transparency, which is dropped; mmvitconv.LoadBands keeps it as a "
    "band",
    "EXIF-rotated": "EXIF-rotated image, turned on reading",
}
# of which a note says how many there are
HARMLESS = [CONVERSIONS[kind] for kind in ("grayscale", "CMYK", "palette", "EXIF-rotated")]
NO_SAMPLE = "class without a sample in training, which the evaluation has"
LEFT_OUT = "training leaves the sample out"
DAMAGED = "file is damaged, what can be decoded of it is used"
DEEP_ADVICE = "mmvitconv.LoadBands in the place of LoadImageFromFile rescales them"
MASK_ADVICE = "PNG of one channel, a number for each class"
WAYS = {  # what to do about kinds of problems that are usually in all files
    "label map has an unknown label": "; write numbers from 0 on, or reduce_zero_label=True where "
    "0 is no class and the classes begin at 1",
    "label map has colours": "; 'mmvitconv init' makes numbers of them, or save PNG of one "
    "channel, a number for each class",
}
FEW_FILES = 64  # per data set, always opened; more while there is time
TRIED = 8  # samples per data set that go through the whole pipeline
EARLY = "the step changes images before LoadAnnotations loads what must change with them"


def check_config(
    cfg: Config,
    splits: Sequence[str] | None = None,
    sample: int | None = None,
    workers: int = 0,
    seconds: float | None = None,
) -> Report:
    """Check a config of mmdet, mmseg or mmpretrain, and its data.

    Args:
        cfg: The config.
        splits: Of 'train', 'val' and 'test'; default: those that the config has.
        sample: Samples per dataset whose files are opened; None for all.
        workers: Processes that open files; 0 for this one.
        seconds: For each dataset, stop opening files after this time; None for no limit.

    Returns:
        The report.

    Raises:
        UserError: If the config has no such split, or a dataset cannot be built.
    """
    prepare_config(cfg)
    present = [split for split in SPLITS if cfg.get(f"{split}_dataloader")]
    wanted = [split for split in present if split in (splits or present)]
    absent = sorted(set(splits or ()) - set(present))
    if absent or not present:
        raise UserError(
            f"the config has no {' and no '.join(f'{s}_dataloader' for s in absent or SPLITS)}"
            + (f"; it has the splits {', '.join(present)}" if present else "")
        )
    report = Report()
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        check_keys(report, cfg, wanted)
        check_values(report, cfg, wanted)
        is_broken = bool(report.errors)
        try:
            with without_collections():
                _check_with_data(report, cfg, wanted, not splits, sample, workers, seconds)
        except Exception:  # of a config that is known to be wrong: that has been said already
            if not is_broken:
                raise
    return report


def _check_with_data(
    report: Report,
    cfg: Config,
    wanted: Sequence[str],
    is_training: bool,
    sample: int | None,
    workers: int,
    seconds: float | None,
) -> None:
    """Check the data, and what of the config must agree with them, see :func:`check_config`."""
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
    use_careful_listing()
    check = _Check(
        num_classes, sample, workers, seconds, needs_masks=_has_masks(model), report=report
    )
    check_effects(report, cfg)
    for option, split, settings in datasets:
        # a training does not need the test data
        check.report = Report() if split == "test" and is_training else report
        check.add(option, split, settings)
        if check.report is not report:
            report.take(check.report, errors_as="warnings")
    check.report = report
    check.images.compare(report)
    check.compare_folders()
    check.compare_classes()
    for split in wanted:
        _check_evaluators(report, cfg, split)
    check_agreement(report, cfg, check.facts)
    check_ignored(report, cfg, check.facts)


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
        The report; samples that a training would leave out are errors.

    Raises:
        UserError: If a dataset cannot be built.
    """
    use_careful_listing()
    check = _Check(num_classes, sample, workers, is_strict=True)
    for option, split, settings in datasets:
        check.add(option, split, settings)
    check.images.compare(check.report)
    check.compare_folders()
    check.compare_classes()
    return check.report


def _has_masks(model: Mapping[str, Any]) -> str:
    """Return the place of the model's head for the masks of objects, '' if it has none."""
    for place, value in walk(model, "model"):
        name = place.rpartition(".")[2]
        if name == "mask_head" and value:
            return place
    return ""


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
    used = {}
    for option, item in leaf_datasets(cfg[f"{split}_dataloader"], f"{split}_dataloader"):
        if item.get("ann_file"):
            path = os.path.join(item.get("data_root") or "", item["ann_file"])
            used[os.path.realpath(path)] = option, path
    for option, evaluator in as_items(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
        path = evaluator.get("ann_file")
        is_local = isinstance(path, str) and not is_remote(path, evaluator)
        if is_local and path and used and os.path.realpath(path) not in used:
            loader, file = next(iter(used.values()))
            report.error(
                "evaluator has another annotation file than its data",
                f"{option}: {path}",
                advice=f"it would compare with other images: {loader} has {file}; write "
                f"{option}.ann_file={file!r}, or None to take the loader's",
            )


@dataclass
class _Check:
    """The check of several datasets, see :func:`check_datasets`."""

    num_classes: int | None
    sample: int | None
    workers: int
    seconds: float | None = None
    needs_masks: str = ""
    is_strict: bool = False
    report: Report = field(default_factory=Report)
    facts: list[Facts] = field(default_factory=list)
    images: Images = field(default_factory=Images)  # of all splits, to be compared
    folders: dict[str, list[str]] = field(default_factory=dict)  # of datasets named by folders
    # samples by split and class
    seen: dict[str, dict[str, int]] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)  # splits of which not all files were opened

    def add(self, option: str, split: str, settings: Mapping[str, Any]) -> None:
        """Check a dataset."""
        name = option.replace("_dataloader", "").replace(".dataset", "")
        fact = Facts(option, split)
        own = Report()
        check_metainfo(own, option, settings)
        if own.errors:
            self.report.take(own)
            self.report.rows.append((name, 0, 0))
            return
        dataset, transforms = _build(option, settings)
        self.facts.append(fact)
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
        fact.classes = list(classes) if isinstance(classes, (list, tuple)) else None
        written = self._read_annotations(dataset, option, name, split)
        if written is False:
            self.report.rows.append((name, 0, 0))
            return
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
        fact.classes = list(classes) if isinstance(classes, (list, tuple)) else None
        if hasattr(dataset, "folder_to_idx"):
            self.folders[name] = list(dataset.folder_to_idx)
            fact.labels = len(dataset.folder_to_idx)
        place = f"{option}.pipeline"
        pipeline = CollectingPipeline(transforms, dataset, self.num_classes, True, place)
        if pipeline.has_class_maps:
            fact.ignored, fact.reduces_zero = pipeline.ignore_index, bool(dataset.reduce_zero_label)
        early = list(find_early_steps(pipeline.steps, place)) if split == "train" else []
        if early:
            self.report.error(EARLY, *early, advice="put LoadAnnotations in front of it")
        for step, pack in find_late_steps(pipeline.steps, place):
            self.report.error(
                f"it looks for an image that {pack} has packed: move it forward", step
            )
        infos = list(sample_infos(dataset))
        fact.samples = len(dataset) if hasattr(dataset, "__len__") else len(infos)
        if not infos:
            self._explain_nothing(name, dataset, settings, written)
        if pipeline.has_class_maps and pipeline.is_local:
            _check_unused_maps(self.report, dataset, infos)
        labels: Counter[int] = Counter()
        ignored = 0
        for info in infos:
            labels.update(class_numbers(info))
            for box in info.get("instances") or ():
                if box.get("ignore_flag"):
                    ignored += 1
                    labels[box.get("bbox_label")] -= 1
        labels = +labels
        empty = sum(info.get("instances") == [] for info in infos)
        if 0 < empty < len(infos):
            self.report.notes.append(
                f"{name}: {empty} of {len(infos)} images have no objects: they are background"
            )
        if labels and not fact.labels:
            fact.labels = max(labels) + 1
        if isinstance(written, Written):
            before = len(self.report.errors)
            self._compare_counts(option, split, written, fact, labels, len(infos), transforms)
            if len(self.report.errors) > before:  # its samples would say the same again
                self.report.rows.append((name, len(infos), sum(labels.values())))
                return
        inside = self._check_paths(name, split, infos, pipeline)
        opened, bad = self._open(name, split, infos, inside, pipeline, labels)
        absent: list[Problem] = []
        if pipeline.is_local and len(opened) < len(inside):
            absent = self._check_presence(infos[number] for number in set(inside) - set(opened))
        self._judge(split, len(infos), len(opened), bad, absent)
        self.report.rows.append((name, len(infos), sum(labels.values())))
        # label maps that were not opened may have any class
        if not pipeline.has_class_maps or len(opened) == len(infos):
            self._note_classes(name, split, dataset, labels)
        else:
            self.unclear.add(split)

    def compare_classes(self) -> None:
        """Name the classes that training lacks; those that an evaluation lacks cost nothing."""
        for split in self.unclear:
            self.seen.pop(split, None)
        trained = self.seen.get("train", {})
        lacking = [
            label
            for label, count in trained.items()
            if not count and any(split.get(label) for split in self.seen.values())
        ]
        for split in self.seen.keys() - {"train"} if trained else ():
            has = [label for label, count in self.seen[split].items() if count]
            if has and not any(trained.get(label) for label in has):
                learnt = shorten([label for label, count in trained.items() if count])
                # a few samples of many classes may have none in common with training by chance
                is_sure = sum(self.seen[split].values()) >= len(trained)
                (self.report.error if is_sure else self.report.warn)(
                    f"none of the classes in the {split} data has a sample in training",
                    f"{split}: {shorten(has)}",
                    advice=f"training has {learnt}: are they the same classes in other words?",
                )
                return
        if lacking:
            self.report.warn(NO_SAMPLE, *[f"train: {label}" for label in lacking])
        for split, labels in self.seen.items():
            absent = [label for label, count in labels.items() if not count]
            if absent and not (split == "train" and set(absent) <= set(lacking)):
                self.report.notes.append(f"{split}: no sample of the class {shorten(absent)}")

    def compare_folders(self) -> None:
        """Compare the class folders of the splits, whose order numbers the classes."""
        every = sorted({label for labels in self.folders.values() for label in labels})
        kind = "class folder is missing, so that classes get other numbers"
        for name, labels in self.folders.items():
            for label in sorted(set(every) - set(labels)):
                self.report.error(kind, f"{name}: {label}", advice="add it, empty if necessary")

    def _read_annotations(
        self, dataset: Any, option: str, name: str, split: str
    ) -> Written | bool | None:
        """Let a dataset read its annotations; False (and an error) when it cannot."""
        path = getattr(dataset, "ann_file", "")
        own, written = Report(), None
        has_json = hasattr(type(dataset), "COCOAPI") and isinstance(path, str)
        if has_json and not is_remote(path, vars(dataset)):
            classes = dataset.metainfo.get("classes") or ()
            written = check_coco_file(own, Path(path), classes, split != "train")
            if split == "test" and not (written and written.objects):
                # the test images of a benchmark have no annotations
                own.warnings.update(own.errors)
                own.errors.clear()
        self.report.take(own)
        if own.errors:
            return False
        if written:
            self.images.annotations.append((option, split, path))
            _share(dataset, written.content)
            written.content = {}
        try:
            # pycocotools prints
            with redirect_stdout(io.StringIO()):
                dataset.full_init()
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self.report.error("annotations cannot be read", f"{name}: {text}")
            return False
        return written

    def _explain_nothing(
        self, name: str, dataset: Any, settings: Mapping[str, Any], written: Written | bool | None
    ) -> None:
        """Say why no sample is left of a dataset."""
        if isinstance(written, Written) and written.objects:
            return  # _compare_counts says it
        suffix = settings.get("img_suffix") or getattr(dataset, "img_suffix", None)
        folders = [
            folder
            for key, folder in dict(getattr(dataset, "data_prefix", None) or {}).items()
            if isinstance(folder, str) and os.path.isdir(folder) and "seg" not in key
        ]
        if isinstance(getattr(dataset, "img_prefix", None), str):
            folders.append(dataset.img_prefix)
        there: Counter[str] = Counter()
        for folder in folders:
            for _, _, names in os.walk(folder):
                there.update(os.path.splitext(file)[1] or "(no suffix)" for file in names)
        found = ", ".join(f"{count} {end}" for end, count in there.most_common(4)) or "nothing"
        looked = f"*{suffix} in " if suffix else "images in "
        likely = next((end for end, _ in there.most_common() if end != "(no suffix)"), "")
        advice = (
            f": write img_suffix={likely!r}"
            if suffix and likely and likely != suffix
            else ": are data_root, data_prefix and ann_file right?"
        )
        where = ", ".join(folders) or getattr(dataset, "data_root", None) or "no folder"
        self.report.error(
            f"no samples: looked for {looked}{where}, where there is {found}{advice}", name
        )

    def _compare_counts(
        self,
        option: str,
        split: str,
        written: Written,
        fact: Facts,
        labels: Mapping[int, int],
        images: int,
        transforms: Compose,
    ) -> None:
        """Compare what is left of a COCO json with what is written in it."""
        report, total, left = self.report, written.objects.total(), sum(labels.values())
        lost = {reason: counts.total() for reason, counts in written.lost.items()}
        why = "; ".join(f"{n} of {total}: {reason}" for reason, n in _largest(lost))
        wants = any(getattr(item, "with_mask", False) for item in transforms.transforms)
        if wants:  # which mmdet ignores when it loads them
            left -= lost.get(FLAT_MASKS, 0)
        if not images:
            why = f"no image passes filter_cfg (min_size, filter_empty_gt); {why}".rstrip("; ")
        names = list(fact.classes or ())
        used = "trained on" if split == "train" else "evaluated"
        if total and left <= 0:
            report.error(
                f"of {total} objects none is left to be {used}: {why or 'unknown'}", option
            )
            return
        for number, label in enumerate(names):
            count = written.objects.get(str(label), 0)
            if count and not labels.get(number):
                own = {reason: counts[label] for reason, counts in written.lost.items()}
                reasons = "; ".join(f"{n}: {reason}" for reason, n in _largest(own))
                # an evaluation may lack a class that others have
                is_choice = split != "train" and own.get(IS_CROWD) == count
                (report.warn if is_choice else report.error)(
                    f"of {count} objects of the class {label!r} none is left to be {used}: "
                    f"{reasons or 'unknown'}",
                    option,
                )
        meant = total - lost.get(OTHER_CATEGORIES, 0)
        if meant < total:
            report.notes.append(f"{option}: {total - meant} of {total} objects: {OTHER_CATEGORIES}")
        if meant - left > LARGE_SHARE * meant:
            report.warn(f"of {total} objects {left} are left to be {used}: {why}", option)
        if (
            meant == total
            and written.images
            and written.images - images > LARGE_SHARE * written.images
        ):
            report.warn(
                f"of {written.images} images {images} are left: the others have no object of these "
                "classes, or are smaller than min_size (filter_cfg)",
                option,
            )
        if total and (wants or self.needs_masks) and split != "test" and not written.masks:
            report.error(
                f"no object has a mask (segmentation), but {self.needs_masks or 'LoadAnnotations'} "
                "needs them: use a detector without a mask head (RetinaNet), or export the masks",
                option,
            )
        elif wants and total - written.masks > LARGE_SHARE * total:
            report.warn(
                f"{total - written.masks} of {total} objects have no mask (segmentation): images "
                "with such objects are left out of the training",
                option,
            )

    def _open(
        self,
        name: str,
        split: str,
        infos: Sequence[Mapping[str, Any]],
        inside: list[int],
        pipeline: CollectingPipeline,
        labels: Counter[int],
    ) -> tuple[list[int], list[Problem]]:
        """Open samples; return which, and what is wrong with them."""
        if self.seconds is None:
            chosen = take_sample(inside, self.sample)
        else:  # spread over the data set, however early it ends
            chosen = sorted(inside, key=lambda number: number * 0.6180339887 % 1)
            chosen = chosen[: len(inside) if self.sample is None else self.sample]
        tried = set(take_sample(chosen, TRIED) if self.seconds is None else chosen[:TRIED])
        results = DataLoader(
            chosen,
            batch_size=None,
            collate_fn=functools.partial(_examine, pipeline, infos, tried),
            num_workers=min(self.workers, len(chosen)),
            worker_init_fn=_use_one_thread,
        )
        begin, count = time.monotonic(), 0
        bad: list[Problem] = []
        failures: list[Failure | None] = []
        harmless: Counter[str] = Counter()
        maps = MapValues()
        highest = deepest = 0
        for found in progress(results, f"{name}: files"):
            bad += found.errors
            for problem in found.warnings:
                if problem.kind in HARMLESS:
                    harmless[problem.kind] += 1
                else:
                    self.report.warn(problem.kind, _place(problem))
            labels.update(found.labels)
            if found.values:
                maps.add(found.values)
            deepest += found.highest > 0
            highest = max(highest, found.highest)
            failures += found.failures
            count += 1
            late = self.seconds is not None and time.monotonic() - begin > self.seconds
            if late and count >= FEW_FILES:
                break
        if count < len(inside):
            self.report.notes.append(f"{name}: opened {count} of {len(inside)} samples")
        if failures and all(failure and failure.loads for failure in failures):
            bad = [problem for problem in bad if problem.kind != UNLOADABLE]
        else:
            failures = [failure for failure in failures if not (failure and failure.loads)]
        self._judge_steps(split, len(inside), failures)
        for kind, number in harmless.items():
            self.report.notes.append(f"{name}: {number} of {count} opened images: {kind}")
        if deepest and pipeline.backend != "pillow":
            few = (
                f"so that they become 0 to {highest // 256}"
                if highest < 2**15
                else ("which are divided by 256")
            )
            self.report.warn(
                f"16-bit images, read with 8 bits: measured values 0 to {highest}, {few}: "
                f"{DEEP_ADVICE}",
                f"{name}: {deepest} of {count} opened images",
            )
        ignore = pipeline.ignore_index
        classes = pipeline.num_classes or 0
        values = maps.pixels
        legal = {value for value in values if value != ignore}
        for kind in (
            maps.find_borders(),
            maps.find_objects(count < len(inside), are_unknown=classes <= max(legal, default=0)),
            maps.find_white() if ignore == 255 else "",
        ):
            if kind:
                self.report.warn(f"label maps: {kind}", f"{name}: {count} label maps")
        if values and not legal:
            self.report.error(
                "of all label maps no pixel is left: everything is ignored",
                *[f"{name}: the labels are only {' and '.join(map(str, sorted(values)))}"],
                advice=f"{ignore} is ignored, and 0 with reduce_zero_label=True",
            )
        elif (
            pipeline.reduces_zero
            and ignore in values
            and count == len(inside)
            and max(legal) == classes - 2
        ):
            self.report.error(
                f"the labels seem to be 0 to {classes - 1}, but reduce_zero_label=True ignores 0 "
                "and shifts the others, so that the last class has no pixel",
                f"{name}: {count} label maps",
                advice="write reduce_zero_label=False, in the dataset and in LoadAnnotations",
            )
        elif values and classes > 1 and len(legal) == 1 and ignore in values:
            only = sorted(values)
            self.report.error(
                f"the labels are only {' and '.join(map(str, only))}, and {ignore} is ignored",
                f"{name}: {count} label maps",
                advice=f"a mask of two values? Write 0 and 1 into the files: {MASK_ADVICE}",
            )
        return chosen[:count], bad

    def _judge(
        self, split: str, size: int, opened: int, bad: list[Problem], absent: list[Problem]
    ) -> None:
        """Report bad samples: an error in an evaluation, and in training if there are too many."""
        kinds: dict[str, list[str]] = {}
        for problem in [*bad, *absent]:
            kinds.setdefault(problem.kind, []).append(_place(problem))
        wrong = {problem.file for problem in bad if problem.kind != DAMAGED}
        files = wrong | {problem.file for problem in absent}
        allowed = allowed_bad(size)
        many = len(files) > allowed or (opened >= FEW_FILES and len(wrong) > opened / 2)
        for kind, places in kinds.items():
            way = next((text for start, text in WAYS.items() if kind.startswith(start)), "")
            if kind == DAMAGED and not self.is_strict:
                self.report.warn(kind, *places)
            elif self.is_strict:
                self.report.error(kind, *places)
            elif split != "train":
                why = f"no sample of the {split} data is left out, as that changes the metric"
                self.report.error(kind, *places, advice=why + way)
            elif many:
                why = (
                    f"{len(files)} of {size} samples cannot be used, training leaves out {allowed}"
                )
                self.report.error(kind, *places, advice=f"{why} at most{way}")
            else:
                self.report.warn(kind, *places, advice=LEFT_OUT)

    def _judge_steps(self, split: str, size: int, tried: list[Failure | None]) -> None:
        """Report steps that fail behind the loading ones, each with its place."""
        for failure, count in Counter(filter(None, tried)).items():
            lost = count * size / len(tried)
            is_fatal = count == len(tried) or (
                split != "train" or (lost > allowed_bad(size) and not failure.leaves_out)
            )
            tell = self.report.error if is_fatal else self.report.warn
            tell(
                f"on {count} of {len(tried)} samples: {failure.reason}",
                failure.place,
                advice=failure.advice,
            )

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
        labels: dict[str, int] = {}
        for number, info in enumerate(infos):
            try:
                pipeline.roots.check(info, info.get("img_id", number))
            except UserError as error:
                self.report.error("file is outside the data root", error)
                continue
            inside.append(number)
            images.update(paths_of(info)[:1])
            if isinstance(info.get("gt_label"), int):
                labels.update(dict.fromkeys(paths_of(info)[:1], info["gt_label"]))
        real = functools.lru_cache(maxsize=None)(os.path.realpath)  # of folders
        for path, count in images.items():
            if count > 1:
                self.report.warn("image is listed more than once", f"{name}: {path}")
            folder, file = os.path.split(path)
            if is_remote(path):
                continue
            self.images.add(path, os.path.join(real(folder), file), split, labels.get(path))
        return inside

    def _check_presence(self, infos: Iterable[Mapping[str, Any]]) -> list[Problem]:
        """Find the files of samples that do not exist and are not opened."""
        names: dict[str, set[str]] = {}
        found = []
        for path in sorted(path for info in infos for path in paths_of(info)):
            folder, name = os.path.split(path)
            if folder not in names:  # network drives are slow: one listing, not a question per file
                names[folder] = _files_in(folder)
            if name not in names[folder] and not is_remote(path):
                found.append(Problem("file is missing", path))
        return found

    def _note_classes(self, name: str, split: str, dataset: Any, labels: Mapping[int, int]) -> None:
        """Note which classes have a label in use."""
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
        if not isinstance(classes, (list, tuple)):
            return
        if self.is_strict and self.num_classes and len(classes) != self.num_classes:
            tell = self.report.error if len(classes) > self.num_classes else self.report.warn
            tell(f"not {self.num_classes} classes, as the model has", f"{name}: {len(classes)}")
        if len(getattr(dataset, "folder_to_idx", classes)) < len(classes):
            return  # ImageNet's thousand names for any folders
        seen = self.seen.setdefault(split, {})
        for number, label in enumerate(classes if labels else ()):
            seen[str(label)] = seen.get(str(label), 0) + labels.get(number, 0)


def allowed_bad(size: int, limit: int | float | None = None) -> int:
    """Return how many bad samples training leaves out before it ends.

    Args:
        size: Of the data set.
        limit: ``max_bad`` of :class:`~mmvitconv.checks.bad_data.BadDataHook`.

    Returns:
        The number.
    """
    if limit is None:
        return min(max(10, size // 100), size // 2)
    return int(limit * size if isinstance(limit, float) else limit)


def _largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return reasons and their counts, the largest first."""
    return sorted(((k, n) for k, n in counts.items() if n), key=lambda item: -item[1])[:3]


def _place(problem: Problem) -> str:
    """Return where a problem is."""
    return f"{problem.file}: {problem.detail}" if problem.detail else problem.file


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
    steps = settings.pop("pipeline", [])
    try:
        transforms = Compose(steps)
        found = kind = settings.get("type")
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(None) as registry:
                found = registry.get(kind)
        if found is None:
            raise UserError(f"{kind!r} is not a known dataset type")
        legal = legal_arguments(found)
        wanted = {"lazy_init": True, "serialize_data": False, "pipeline": []}
        settings.update({key: wanted[key] for key in wanted if legal is None or key in legal})
        return DATASETS.build(settings), transforms
    except Exception as error:
        text = _refused_step(steps, f"{option}.pipeline") or describe(error)
        if "unexpected keyword argument 'classes'" in text:
            text += "; write metainfo=dict(classes=...)"
        raise UserError(f"{option}: the dataset cannot be built: {text}") from error


def _refused_step(steps: Any, place: str) -> str:
    """Say which transform cannot be built, with its arguments; '' if all can."""
    if isinstance(steps, Mapping):
        return f"{place} must be a list of dicts: put it into [ ]"
    for number, step in enumerate(steps):
        try:
            Compose([copy.deepcopy(step)])
        except Exception as error:
            if not isinstance(step, Mapping):
                return f"{place}.{number} must be a dict with a type, got {step!r}"
            given = ", ".join(f"{key}={value!r}" for key, value in step.items() if key != "type")
            call = f"{type_name(step)}({given})"
            return f"{place}.{number}: {call} refuses its arguments: {describe(root_cause(error))}"
    return ""


def _share(dataset: Any, content: dict[str, Any]) -> None:
    """Give a dataset of mmdet the json that has been read: a second copy takes time and memory."""
    from mmdet.datasets.api_wrappers import COCO, COCOPanoptic

    api = type(dataset).COCOAPI
    if api not in (COCO, COCOPanoptic):  # another's reader may do anything with its file
        return

    def index(path: str) -> COCO:
        del dataset.COCOAPI  # and with it the content
        result = api()
        result.dataset = content
        result.createIndex()
        result.img_ann_map, result.cat_img_map = result.imgToAnns, result.catToImgs
        return result

    dataset.COCOAPI = index


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

    @property
    def reduces_zero(self) -> bool:
        """Whether label 0 is ignored and the others become one less."""
        return any(getattr(item, "reduce_zero_label", None) for item in self.transforms)

    found: list[Problem]

    def complain(self, problem: Problem) -> None:
        """Keep a problem and go on."""
        self.found.append(problem)

    def finish(self, sample: Any) -> Failure | None:
        """Take a sample that was loaded through the other steps.

        Args:
            sample: It is changed.

        Returns:
            The step that fails, if one does.

        Raises:
            MemoryError: There is too little memory.
        """
        for number in range(self.loading, len(self.steps)):
            try:
                sample = self.steps[number](sample)
            except MemoryError:
                raise
            except Exception as error:
                return explain_step(error, self.steps, number, self.place)
            if sample is None:
                place = f"{self.place}.{number} ({type(self.steps[number]).__name__})"
                return Failure(place, "the step leaves the sample out", leaves_out=True)
        return None


class Examined(NamedTuple):
    """What was found in a sample.

    Attributes:
        errors: What is wrong with it.
        warnings: What is unusual.
        labels: The classes in its label map, each once.
        values: How often the numbers in its label map stand there as they are in the pipeline,
            ignored ones included; see :func:`~mmvitconv.datasets.map_values.count_values`.
        highest: The highest value of an image of 16 bits; 0 for others.
        failures: Of one that went through the whole pipeline, the step that failed, or None.
    """

    errors: list[Problem]
    warnings: list[Problem]
    labels: list[int]
    values: Mapping[int, tuple[int, int]]
    highest: int = 0
    failures: Sequence[Failure | None] = ()


def _examine(
    pipeline: CollectingPipeline,
    infos: Sequence[Mapping[str, Any]],
    tried: set[int],
    number: int,
) -> Examined:
    """Open a sample; return what is wrong, what is unusual, and the labels in its label map."""
    info = dict(copy.deepcopy(infos[number]), sample_idx=number)
    path = next(iter(paths_of(info)), "")
    errors = pipeline.found = []
    warnings: list[Problem] = []
    loaded = failure = None
    with _decoder_messages() as messages:
        try:
            loaded = pipeline(info)
        except BadSampleError as bad:
            errors.append(bad.problem)
            failure = bad.failure
        except UserError as error:
            errors.append(Problem(str(error), path))
    if loaded is None:
        failures = [failure] if number in tried and failure else []
        return Examined(errors, warnings, [], {}, failures=failures)
    errors += [Problem(DAMAGED, path, text) for text in messages]
    highest = 0
    if pipeline.is_local and pipeline.is_converted and os.path.isfile(path):
        kinds = pipeline.conversions(path)
        warnings += [Problem(CONVERSIONS[kind], path) for kind in kinds if kind in CONVERSIONS]
        if "16-bit" in kinds and _reads_eight_bits(loaded):
            raw = cv2.imread(path, cv2.IMREAD_UNCHANGED)
            highest = 0 if raw is None else int(raw.max())
    labels: list[int] = []
    numbers: dict[int, tuple[int, int]] = {}
    values = loaded.get("gt_seg_map") if isinstance(loaded, Mapping) else None
    if isinstance(values, np.ndarray) and values.ndim == 2 and pipeline.has_class_maps:
        numbers = count_values(values)
        labels = [value for value in numbers if value != pipeline.ignore_index]
        if not labels:
            kind = "label map in which everything is ignored"
            warnings.append(Problem(kind, str(info.get("seg_map_path", path))))
    errors = list(dict.fromkeys(errors))
    failures = [pipeline.finish(loaded)] if number in tried and not errors else []
    return Examined(errors, warnings, labels, numbers, highest, failures)


def _reads_eight_bits(loaded: Any) -> bool:
    """Tell whether an image was loaded as whole numbers of 8 bits."""
    image = loaded.get("img") if isinstance(loaded, Mapping) else None
    return isinstance(image, np.ndarray) and image.dtype == np.uint8


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
