"""The files below a folder, and which of them an annotation means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from mmvitconv.datasets.jsons import read_json
from mmvitconv.errors import UserError

__all__ = ["IMAGE_SUFFIXES", "MASK_WORDS", "SPLIT_WORDS", "Tree", "split_of", "words_of"]

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jp2", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".npy")
)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What stands beside them in names of folders: images_train, val2017, obj_train_data
AROUND = {
    *("image", "images", "img", "imgs", "label", "labels", "annotation", "annotations", "ann"),
    *("mask", "masks", "data", "dataset", "set", "split", "dir", "obj", "coco", "gt", "seg", "jpg"),
}
# What folders of masks, and ends of their files' names, are called
MASK_WORDS = {
    *(
        "mask",
        "masks",
        "label",
        "labels",
        "annotation",
        "annotations",
        "ann",
        "gt",
        "seg",
        "segmap",
    ),
    *("segmentation", "segmentationclass", "segmentationobject", "segmentations", "groundtruth"),
    *("labelids", "instanceids", "instances", "truth"),
}
JUNK = {"__MACOSX", "@eaDir"}


def split_of(path: str, is_annotation: bool = False) -> str:
    """Return the split that a path below the data's folder names.

    Args:
        path: With slashes. Of an image only its folders count.
        is_annotation: The file's own name counts as well, whatever else is in it.

    Returns:
        ``'train'``, ``'val'``, ``'test'`` or ''.
    """
    *folders, name = path.split("/")
    if is_annotation:
        for word in words_of(name.rpartition(".")[0]):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    for folder in reversed(folders):
        words = words_of(folder)
        found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
        if len(found) == 1 and all(word in SPLIT_WORDS or word in AROUND for word in words):
            return found[0]
    return ""


def words_of(text: str) -> list[str]:
    """Return the words of a name, in small letters, without numbers."""
    return [word for word in re.split(r"[\W\d_]+", text.lower()) if word]


def _plain(name: str) -> str:
    """Return a name as all systems write it: accents composed, one case."""
    return unicodedata.normalize("NFC", name).casefold()


class Tree:
    """All files below a folder, without hidden ones.

    Args:
        root: The folder.

    Attributes:
        root: Absolute.
        files: Paths below it, with slashes, sorted.
        unreadable: What is wrong with files that are no json, a sentence each.

    Raises:
        UserError: There is no such folder, or no image in it.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root).expanduser().absolute()
        if not self.root.is_dir():
            there = "is no folder" if self.root.exists() else "does not exist"
            raise UserError(f"--data {os.fspath(root)!r} {there}; give the folder with your data")
        self.unreadable: list[str] = []
        self.files = sorted(self._walk(str(self.root), ()))
        if not self.images:
            raise UserError(
                f"--data {os.fspath(root)!r} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}), "
                "neither directly nor in the folders inside it"
            )

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterable[str]:
        real = os.path.realpath(folder)
        if real in above:  # a link to a folder around it
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in JUNK:
                    continue
                if entry.is_dir():
                    yield from self._walk(entry.path, (*above, real))
                elif entry.is_file():
                    yield Path(entry.path).relative_to(self.root).as_posix()

    @cached_property
    def images(self) -> list[str]:
        """Those that are images by their suffix, masks included."""
        return [path for path in self.files if _suffix(path) in IMAGE_SUFFIXES]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.images:
            found[_plain(PurePosixPath(path).stem)].append(path)
        return found

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the files with one of these suffixes, such as ``'.xml'``."""
        return [path for path in self.files if _suffix(path) in suffixes]

    def path(self, name: str) -> str:
        """Return the absolute path of a file."""
        return str(self.root / name)

    @cached_property
    def jsons(self) -> dict[str, Any]:
        """The content of the json files that are such."""
        found = {}
        for name in self.with_suffix(".json"):
            try:
                found[name] = read_json(self.path(name), "annotation file", "utf-8-sig")
            except UserError as error:
                self.unreadable.append(str(error))
        return found

    def read_lines(self, name: str) -> list[str]:
        """Return the lines of a text file, without empty ones."""
        with open(self.path(name), encoding="utf-8-sig", errors="replace") as file:
            return [line.strip() for line in file if line.strip()]

    def find_image(self, reference: str, near: str) -> str | None:
        """Return the image that an annotation means.

        Tools write a name, a path on another machine, one with backslashes, or an address. Of
        images of one name that counts which has most folders in common with the reference, then
        the same split as the annotation file, then the most folders in common with it.

        Args:
            reference: What the annotation says.
            near: The annotation file.

        Returns:
            A path below the folder; None where no image has that name.
        """
        reference = str(reference).replace("\\", "/")
        if "://" in reference or "?" in reference or "%" in reference:
            reference = unquote(reference.rpartition("?d=")[2])
        parts = [part for part in PurePosixPath(reference).parts if part not in ("/", ".", "..")]
        if not parts:
            return None
        stem = PurePosixPath(parts[-1]).stem
        if _suffix(parts[-1]) not in IMAGE_SUFFIXES:
            stem = parts[-1]
        candidates = self._by_stem.get(_plain(stem), [])
        if not candidates:  # Label Studio puts hexadecimal digits in front
            candidates = self._by_stem.get(_plain(re.sub(r"^[0-9a-f]{4,12}-", "", stem)), [])
        if len(candidates) < 2:
            return next(iter(candidates), None)
        wanted, split = split_of("/".join(parts)), split_of(near, is_annotation=True)
        ending = [_plain(part) for part in reversed(parts[:-1])]
        return max(
            candidates,
            key=lambda path: (
                _plain(path.rpartition("/")[2]) == _plain(parts[-1]),
                not MASK_WORDS & set(words_of(path.rpartition("/")[0])),
                _common([_plain(part) for part in reversed(path.split("/")[:-1])], ending),
                split_of(path) == (wanted or split),
                _common(path.split("/")[:-1], near.split("/")[:-1]),
            ),
        )


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _common(first: list[str], second: list[str]) -> int:
    """Return how many items two lists have in common at their start."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
