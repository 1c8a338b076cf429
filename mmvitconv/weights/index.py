"""Published weights by name, from ``index.yml``; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmvitconv.errors import UserError

__all__ = [
    "INDEX",
    "Input",
    "Source",
    "Weights",
    "find_weights",
    "read_index",
    "read_inputs",
    "weights_of",
]

INDEX = Path(__file__).with_name("index.yml")
# What names of configs say and those of ImageNet weights do not.
_UNSAID = {"imagenet"}


@dataclass(frozen=True)
class Input:
    """What weights expect of an image.

    Attributes:
        mean: Subtracted from pixels of 0 to 255, one number for each colour.
        std: What the difference is divided by.
        colours: ``'RGB'`` or ``'BGR'``.
        resize: Pixels of the short side, or bounds of width and height.
        crop: Side of the square that is cut from the centre; None for none.
        interpolation: ``'bicubic'`` or ``'bilinear'``.
        keep_ratio: Whether resizing keeps the ratio of the sides.
        antialias: Whether resizing averages over all pixels, as Pillow does, and not only between
            the nearest ones, as OpenCV does.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colours: str
    resize: int | tuple[int, int]
    interpolation: str
    crop: int | None = None
    keep_ratio: bool = True
    antialias: bool = True


@dataclass(frozen=True)
class Source:
    """A place from which a file can be had.

    Attributes:
        kind: ``'direct'`` (one request gives the file), ``'drive-file'``, ``'drive-folder'`` or
            ``'timm'``.
        address: Where it is.
        file: What it is called in the cache and on a mirror.
        size: Its size in MB, about; None where nobody says.
        sha256: How its sha256 begins; empty where nobody says.
        named: ``'here'`` where the file's own name is not known.
    """

    kind: str
    address: str
    file: str
    size: float | None = None
    sha256: str = ""
    named: str = "there"


@dataclass(frozen=True)
class Weights:
    """Published weights.

    Attributes:
        name: ``'fcvit_s12'``, ``'fcvit_s12_maskrcnn_coco'``.
        architecture: ``'FCViT:s12'``.
        task: ``'classification'``, ``'detection'`` or ``'segmentation'``.
        dataset: What the weights were trained on.
        licence: Of the file.
        input: What they expect of an image.
        published: The authors' figures by metric; not reproduced here.
        published_in: Where these stand.
        sources: Where the file is, in the order in which places are tried.
        config: The shipped config whose model the weights fill; empty for a link only.
        backbone: Arguments of the backbone, beside ``arch``, that the weights need.
        loads: False where the layout of the file is not known, so that it is a link only.
    """

    name: str
    architecture: str
    task: str
    dataset: str
    licence: str
    input: Input
    published: Mapping[str, float] = field(hash=False)
    published_in: str
    sources: tuple[Source, ...]
    config: str = ""
    backbone: Mapping[str, Any] = field(default_factory=dict, hash=False)
    loads: bool = True

    @property
    def uri(self) -> str:
        """What names the weights wherever a checkpoint can be named."""
        return f"mmvitconv://{self.name}"

    def figures(self) -> str:
        """Return the published figures on one line."""
        return ", ".join(
            f"{metric.removesuffix(' Accuracy')} {value}"
            for metric, value in self.published.items()
        )


@cache
def read_index() -> dict[str, Weights]:
    """Return all published weights by name."""
    content = yaml.safe_load(INDEX.read_text("utf-8"))
    inputs = _inputs(content)
    return {
        name: Weights(
            name,
            **{
                **entry,
                "input": inputs[entry["input"]],
                "sources": tuple(Source(**source) for source in entry["sources"]),
            },
        )
        for name, entry in content["weights"].items()
    }


@cache
def read_inputs() -> dict[str, Input]:
    """Return what weights expect of an image, by the name that the index has for it."""
    return _inputs(yaml.safe_load(INDEX.read_text("utf-8")))


def _inputs(content: Mapping[str, Any]) -> dict[str, Input]:
    return {name: Input(**_tuples(entry)) for name, entry in content["inputs"].items()}


def find_weights(name: str) -> Weights:
    """Return the weights of a name.

    Args:
        name: As in the index; the words in another order, as in the names of configs, mean the
            same: ``'maskrcnn_fcvit_s12_coco'``, ``'fcvit_s12_imagenet'``.

    Returns:
        The weights.

    Raises:
        UserError: There are none of this name; similar ones are named.

    Examples:
        >>> find_weights("fcvit_s12").architecture
        'FCViT:s12'
    """
    index = read_index()
    if name in index:
        return index[name]
    words = {_words(known): entry for known, entry in index.items()}
    if _words(name) in words:
        return words[_words(name)]
    near = get_close_matches(name.lower(), index, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "'mmvitconv weights list' shows all"
    raise UserError(f"there are no published weights {name!r}; {hint}")


def weights_of(architecture: str) -> list[Weights]:
    """Return what is published for an architecture, for all tasks.

    Args:
        architecture: ``'FCViT:s12'``.
    """
    return [entry for entry in read_index().values() if entry.architecture == architecture]


def _words(name: str) -> frozenset[str]:
    return frozenset(name.lower().replace("-", "_").split("_")) - _UNSAID


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
