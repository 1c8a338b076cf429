"""Bad samples during a run: named, counted, left out of training and never out of an evaluation.

What is bad is decided by :mod:`mmvitconv.checks.samples`, what happens then is documented in
docs/bad_data.md.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitconv.checks.annotations import Report, check_coco_file
from mmvitconv.checks.config import allowed_bad
from mmvitconv.checks.samples import (
    BadSampleError,
    CheckedPipeline,
    Problem,
    Roots,
    class_numbers,
    innermost,
    paths_of,
    sample_infos,
)
from mmvitconv.datasets.layout import is_remote
from mmvitconv.errors import UserError, shorten
from mmvitconv.registry import HOOKS

__all__ = ["BadDataError", "BadDataHook", "GuardedPipeline"]

FEW = 5  # examples in a message
CHECK = "mmvitconv check CONFIG finds all of them beforehand"


class BadDataError(UserError):
    """Data with which a run cannot go on.

    A data loader's worker sends it as text that contains its traceback; only the sentence is kept.

    Args:
        message: The sentence, or the text that contains it.
    """

    of_one_process = True

    def __init__(self, message: str) -> None:
        if message.startswith("Caught "):
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)


class GuardedPipeline(CheckedPipeline):
    """A dataset's pipeline that follows a policy where a sample is bad.

    It returns ``None`` for a sample to be left out, for which MMEngine's datasets take another one,
    chosen by numpy's random state. What it finds is appended to a file, which all worker processes
    share with the main process.

    Args:
        pipeline: The dataset's pipeline.
        dataset: The dataset.
        split: 'train', 'val' or 'test'.
        policy: 'skip', 'refuse' or 'warn'; see :class:`BadDataHook`.
        limit: Number of bad files that may be left out.
        journal: File to append to.
        number: Number of the dataset in its split.
        num_classes: Number of classes where the dataset does not know it.
    """

    def __init__(
        self,
        pipeline: Any,
        dataset: Any,
        *,
        split: str,
        policy: str,
        limit: int,
        journal: str,
        number: int = 0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(pipeline, dataset, num_classes)
        self.original = pipeline
        self.split = split
        self.policy = policy
        self.limit = limit
        self.size = len(dataset)
        self.journal = journal
        self.number = number
        self.has_objects = hasattr(dataset, "cat_ids")
        self.known: set[tuple[str, str]] = set()
        self.left_out: set[str] = set()
        self.looked_at = bytearray(self.size)

    def __call__(self, data: dict[str, Any]) -> Any:
        """Load and transform a sample.

        Args:
            data: What the annotations say about it.

        Returns:
            What the pipeline returns; ``None`` for a sample to be left out.

        Raises:
            BadDataError: When the policy refuses the sample, or too many were left out.
        """
        image, index = data.get("img_path"), data.get("sample_idx")
        name = next(iter(paths_of(data)), "a sample")
        try:
            result = super().__call__(data)
        except BadSampleError as bad:
            return self._treat(bad)
        except UserError as error:  # outside the data root
            raise BadDataError(str(error)) from error
        if result is None and self.split != "train":
            raise BadDataError(
                f"the pipeline of the {self.split} data returned nothing for {name}, but every "
                "sample must be evaluated"
            )
        is_local = isinstance(image, str) and self.is_local and not is_remote(image)
        if is_local and self.is_converted:
            self._note_conversions(image, index)
        return result

    def complain(self, problem: Problem) -> None:
        """Go on with the sample under the policy 'warn', as MMEngine would; else raise."""
        if self.policy != "warn":
            super().complain(problem)
        self._write(problem, "used")

    def _treat(self, bad: BadSampleError) -> None:
        """Leave a sample out, or stop."""
        problem = bad.problem
        if self.has_objects and self.roots.source not in problem.detail:
            detail = f"{problem.detail}; annotated in {self.roots.source}".removeprefix("; ")
            problem = problem._replace(detail=detail)
        if self.policy != "skip":
            reason = f"no sample of the {self.split} data is left out, as that changes the metric"
            if self.split == "train":
                reason = f"policy={self.policy!r} of mmvitconv.BadDataHook leaves no sample out"
            resume = "" if self.split == "test" else ", then go on with --resume"
            advice = f"fix the file or its annotation{resume}; {CHECK}"
            raise BadDataError(f"{problem}; {reason}: {advice}") from bad
        self._write(problem, "left out")
        self.left_out.add(problem.file)
        if len(self.left_out) > self.limit:
            raise BadDataError(too_many(problem, len(self.left_out), self.size)) from bad

    def _note_conversions(self, path: str, index: Any) -> None:
        """Write down, once, that an image is not stored as 8-bit colours."""
        if isinstance(index, int) and index < self.size:
            if self.looked_at[index]:
                return
            self.looked_at[index] = 1
        try:
            for kind in self.conversions(path):
                self._write(Problem(kind, path), "converted")
        except Exception:  # no image: loading it says so
            return

    def _write(self, problem: Problem, action: str) -> None:
        """Append a line to the journal, once per file and kind."""
        key = (problem.file, problem.kind)
        if key in self.known:
            return
        self.known.add(key)
        record = dict(problem._asdict(), action=action, split=self.split, number=self.number)
        # one write of a short line to a file opened for appending is not torn between processes
        with open(self.journal, "ab", buffering=0) as file:
            file.write(json.dumps(record).encode() + b"\n")


def too_many(problem: Problem, count: int, size: int) -> str:
    """Return the sentence for a data set with too many bad samples."""
    return (
        f"{count} of {size} training samples had to be left out, more than max_bad of "
        f"mmvitconv.BadDataHook allows; the last one is {problem}; are the paths right? "
        f"{CHECK}"
    )


@HOOKS.register_module()
class BadDataHook(Hook):
    """Names and counts bad samples and keeps them from ending, or silently spoiling, a run.

    Bad is what cannot be read (missing, empty, damaged) and what would be used although it is wrong
    (a mask or label map of another size, an unknown class number, a box without area ...), as
    docs/bad_data.md lists. Every bad file is named in the log once, and written to
    ``bad_data_rank<rank>.jsonl`` in the folder of the log. A path outside the data root always ends
    the run.

    Args:
        policy: For training. 'skip': another sample is taken. 'refuse': the run ends. 'warn': what
            can be loaded is used, as MMEngine does; what cannot ends the run.
        evaluation_policy: For validation and test, where leaving samples out would change the
            metric: 'refuse' or 'warn'.
        max_bad: Bad files of a training set (in each process) above which 'skip' ends the run: a
            number >= 0, or a share below 1. Default: 1 %, but at least 10 and at most half of it.
        survey: Look through the annotations when the run begins: paths outside the data root,
            missing files of the evaluation, classes without samples, annotations that mmdet leaves
            out. Takes seconds for a million samples.

    Raises:
        UserError: When an argument is not one of these.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.BadDataHook", policy="refuse")]
    """

    priority = "VERY_LOW"  # after the hooks that change the pipeline
    keeps_state = False  # its attributes are of the journal of one start

    def __init__(
        self,
        policy: str = "skip",
        evaluation_policy: str = "refuse",
        max_bad: int | float | None = None,
        survey: bool = True,
    ) -> None:
        for name, value, legal in (
            ("policy", policy, ("skip", "refuse", "warn")),
            ("evaluation_policy", evaluation_policy, ("refuse", "warn")),
        ):
            if value not in legal:
                raise UserError(f"BadDataHook: {name} must be one of {legal}, got {value!r}")
        is_number = isinstance(max_bad, (int, float)) and not isinstance(max_bad, bool)
        if max_bad is not None and (
            not is_number or not max_bad >= 0 or (isinstance(max_bad, float) and max_bad >= 1)
        ):
            raise UserError(
                "BadDataHook: max_bad must be a whole number >= 0 or a share below 1.0, got "
                f"{max_bad!r}"
            )
        self.policy = policy
        self.evaluation_policy = evaluation_policy
        self.max_bad = max_bad
        self.survey = survey
        self.journal = Path()
        self._position = 0
        self._known: set[tuple[str, str]] = set()
        self._left_out: dict[tuple[str, int], dict[str, Problem]] = defaultdict(dict)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._summarised = 0
        self._surveyed: set[str] = set()

    def limit(self, size: int) -> int:
        """Return how many bad files of a training set of ``size`` samples may be left out."""
        return allowed_bad(size, self.max_bad)

    def before_train(self, runner: Runner) -> None:
        """Guard the training data, and look at what the validation will need."""
        self._begin(runner, runner.train_loop.dataloader, "train")
        iterator = getattr(runner.train_loop, "dataloader_iterator", None)
        if getattr(getattr(iterator, "_iterator", None), "_workers", None):
            runner.logger.warning(
                "bad data: the workers of the training data run already and are not guarded; "
                "train_cfg.type='mmvitconv.ResumableIterLoop' starts them later"
            )
        if runner.val_loop is not None:
            self._begin(runner, runner.val_loop.dataloader, "val")
            compare_folders(runner.train_loop.dataloader, runner.val_loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        """Guard a pipeline that another hook has put in."""
        self._guard(runner, runner.train_loop.dataloader, "train")

    def before_val(self, runner: Runner) -> None:
        """Guard the validation data."""
        self._begin(runner, runner.val_loop.dataloader, "val")

    def before_test(self, runner: Runner) -> None:
        """Guard the test data."""
        self._begin(runner, runner.test_loop.dataloader, "test")

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the counts, if they have changed."""
        self._after_iter(runner)
        total = self._counts.total()
        if total == self._summarised:
            return
        self._summarised = total
        parts = [
            f"{split}: {count} {action} ({kind})"
            for (split, action, kind), count in sorted(self._counts.items())
        ]
        is_bad = any(action != "converted" for _, action, _ in self._counts)
        say = runner.logger.warning if is_bad else runner.logger.info
        say(f"bad data so far: {'; '.join(parts)}; list: {self.journal}")

    # the first for runs without epochs
    after_train = after_test = after_train_epoch

    def _begin(self, runner: Runner, loader: Any, split: str) -> None:
        """Guard the data of a split and look through its annotations."""
        self._guard(runner, loader, split)
        if not len(loader.dataset):
            files = [Roots(dataset).source for dataset in innermost(loader.dataset)]
            raise BadDataError(
                f"no sample of the {split} data is left in {shorten(files, FEW)}; give a file with "
                f"images and annotations; {CHECK}"
            )
        if self.survey and split not in self._surveyed and is_main_process():
            self._surveyed.add(split)
            for dataset in innermost(loader.dataset):
                survey(runner.logger, dataset, split)

    def _guard(self, runner: Runner, loader: Any, split: str) -> None:
        """Put a guard around the pipelines that have none yet."""
        self.journal = Path(runner.log_dir, f"bad_data_rank{get_rank()}.jsonl")
        model = getattr(runner.model, "module", runner.model)
        head = getattr(model, "head", None) or getattr(model, "decode_head", None)
        for number, dataset in enumerate(innermost(loader.dataset)):
            guard = getattr(dataset, "pipeline", None)
            if not callable(guard):
                continue
            if not isinstance(guard, GuardedPipeline):
                guard = dataset.pipeline = GuardedPipeline(
                    guard,
                    dataset,
                    split=split,
                    policy=self.policy if split == "train" else self.evaluation_policy,
                    limit=self.limit(len(dataset)),
                    journal=str(self.journal),
                    number=number,
                    num_classes=getattr(head, "num_classes", None),
                )
            # what new worker processes need not write again
            guard.known |= self._known
            guard.left_out |= self._left_out[split, number].keys()

    def _after_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Log what was appended to the journal, and end a run that leaves out too much."""
        if not self.journal.is_file() or self.journal.stat().st_size == self._position:
            return
        with self.journal.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._take(runner, json.loads(line))
        for (split, number), files in self._left_out.items():
            if split == "train":
                size = len(list(innermost(runner.train_loop.dataloader.dataset))[number])
                if len(files) > self.limit(size):
                    raise BadDataError(too_many(list(files.values())[-1], len(files), size))

    def _take(self, runner: Runner, record: Mapping[str, Any]) -> None:
        """Count and log one line of the journal, unless another worker wrote the same."""
        problem = Problem(record["kind"], record["file"], record["detail"])
        split, action = record["split"], record["action"]
        if problem[:2] in self._known:
            return
        self._known.add(problem[:2])
        self._counts[split, action, problem.kind] += 1
        if action == "left out":
            self._left_out[split, record["number"]][problem.file] = problem
        if action != "converted":
            runner.logger.warning(f"bad data: {split}: {action}: {problem}")
        elif self._counts[split, action, problem.kind] <= FEW:
            runner.logger.info(
                f"bad data: {split}: {problem.kind} image, converted on reading: {problem.file}"
            )


def survey(logger: logging.Logger, dataset: Any, split: str) -> None:
    """Warn of, or refuse, what the annotations of a dataset say; before the run begins."""
    roots = Roots(dataset)
    backend = {"backend_args": getattr(dataset, "backend_args", None)}
    evaluated = split != "train" and not is_remote("", backend)
    used: Counter[int] = Counter()
    missing: list[str] = []
    for index, info in enumerate(sample_infos(dataset)):
        try:
            roots.check(info, info.get("img_id", index))
        except UserError as error:
            raise BadDataError(str(error)) from error
        used.update(class_numbers(info))
        if evaluated:
            missing += [
                path for path in paths_of(info) if not is_remote(path) and not os.path.isfile(path)
            ]
    if missing:
        raise BadDataError(
            f"{len(missing)} files of the {split} data are missing, the first is {missing[0]}; "
            f"{CHECK}"
        )
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    absent = [str(name) for number, name in enumerate(classes) if number not in used]
    if used and absent:
        say = logger.warning if split == "train" else logger.info
        say(
            f"bad data: {split}: {len(absent)} of {len(classes)} classes have no sample: "
            f"{shorten(absent, FEW)}"
        )
    if not hasattr(dataset, "cat_ids") or is_remote(dataset.ann_file, backend):
        return
    report = Report()  # what mmdet left out of a COCO json without a word
    check_coco_file(report, Path(dataset.ann_file), classes, evaluated)
    if Path(dataset.ann_file).suffix != ".json":
        return
    for sentence in report.sentences("errors", FEW):
        raise BadDataError(f"{dataset.ann_file}: {sentence}; {CHECK}")
    for sentence in report.sentences("warnings", FEW):
        logger.warning(f"bad data: {split}: {sentence}")


def compare_folders(train: Any, val: Any) -> None:
    """Refuse class folders that differ: each split numbers its own by their order."""
    named = [
        (dataset, set(dataset.folder_to_idx))
        for loader in (train, val)
        for dataset in innermost(loader.dataset)
        if hasattr(dataset, "folder_to_idx")
    ]
    every = set().union(*(folders for _, folders in named))
    for dataset, folders in named:
        if folders != every:
            absent = shorten(sorted(every - folders), FEW)
            raise BadDataError(
                f"{dataset.img_prefix} lacks the class folders {absent} of the other split, so "
                "that its classes would have other numbers: add them, empty if necessary"
            )
