"""Images of an evaluation that training has, too, and images that are in two classes."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from mmvitconv.checks.annotations import Report
from mmvitconv.datasets.copies import find_copies

__all__ = ["Images"]

LEARNT = "the score is that of images which were learnt by heart: "
WHOLE = 0.9  # share of a split's images that are training's: no slip of single files


@dataclass
class Images:
    """The images of all splits, as their data sets have listed them."""

    # split and class of each, by its real path
    files: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # by split
    learnt: dict[str, list[str]] = field(default_factory=dict)  # by split, those of training, too
    # option and split of each annotation file
    annotations: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, path: str, real: str, split: str, label: int | None) -> None:
        """Add an image.

        Args:
            path: As its data set says it.
            real: Without links, so that it is the same for all that name it.
            split: 'train', 'val' or 'test'.
            label: Its class; None where it has none of its own.
        """
        other = self.files.setdefault(real, (split, label))[0]
        self.counts[split] += 1
        if other != split and "train" in (other, split):
            self.learnt.setdefault(split if other == "train" else other, []).append(path)

    def compare(self, report: Report) -> None:
        """Name images that are the same as others of training, or of another class.

        Args:
            report: Gets the problems.
        """
        pairs, left = find_copies(self.files)
        copies: dict[str, list[str]] = {}
        for first, second in pairs:
            splits = {self.files[path][0]: path for path in (second, first)}
            if len(splits) > 1 and "train" in splits:
                (split,) = splits.keys() - {"train"}
                copies.setdefault(split, []).append(f"{splits['train']} and {splits[split]}")
        for split in ("val", "test"):
            self._judge(report, split, self.learnt.get(split, []), copies.get(split, []))
        labels = [p for p in pairs if self.files[p[0]][1] != self.files[p[1]][1]]
        if labels:
            report.warn(
                "the same image, byte for byte, is in two classes",
                *(" and ".join(pair) for pair in labels),
                advice="one of both is wrong, or the image has several classes",
            )
        if left:
            report.notes.append(
                f"{left} images of equal sizes were not compared, whether they are the same"
            )

    def _judge(self, report: Report, split: str, same: list[str], copies: list[str]) -> None:
        """Report images of an evaluation that training has, too: one by one, or as a whole."""
        cause = self._same_annotations(split)
        number, total = len(same) + len(copies), self.counts[split]
        if cause or (total > 1 and number >= WHOLE * total):
            what = f" (all {total} images)" if number == total else f" ({number} of {total} images)"
            report.warn(
                f"the {split} data are those of training{what * bool(number)}",
                cause or f"{split}_dataloader: {next(iter(same or copies))}",
                advice=f"{LEARNT}give {split}_dataloader images that training does not have",
            )
            return
        kinds = {"image": same, "the same image, byte for byte,": copies}
        for kind, places in kinds.items():
            if places:
                advice = f"{LEARNT}leave one of both out"
                report.warn(f"{kind} is in train and {split}", *places, advice=advice)

    def _same_annotations(self, split: str) -> str:
        """Say that a split has the annotation file of training, or a copy; '' otherwise."""
        trained = [(option, file) for option, other, file in self.annotations if other == "train"]
        for option, other, file in self.annotations:
            for train, first in trained if other == split else ():
                if os.path.realpath(first) == os.path.realpath(file):
                    return f"{option}.ann_file is that of {train}: {file}"
                with suppress(OSError):
                    if filecmp.cmp(first, file, shallow=False):
                        return f"{option}.ann_file has the content of {train}'s: {file}, {first}"
        return ""
