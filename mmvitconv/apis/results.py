"""What a model says about an image: numbers to work with, JSON, and a picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from mmvitconv.apis import drawing
from mmvitconv.apis.drawing import Colour, Label
from mmvitconv.apis.images import Content, Loading
from mmvitconv.errors import UserError

COLOUR_BY = ("instance", "class")
MOST_NAMES = 25  # of more objects the labels are scores only; the legend names the classes


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the predictions of all tasks have in common.

    Attributes:
        image: Path of the image, or ``'image 3'`` for the fourth one when it had none.
        width: Of the image as it is displayed, in pixels.
        height: As ``width``.
        classes: Names of the model's classes; empty when nobody knows them.
        palette: Colour of each class, RGB; empty to choose.
        content: Where the image can be read again.
        loading: How it was decoded.
    """

    task: ClassVar[str]
    image: str
    width: int
    height: int
    classes: tuple[str, ...] = field(repr=False)
    palette: tuple[Colour, ...] = field(repr=False)
    content: Content = field(repr=False)
    loading: Loading = field(default=Loading(), repr=False, kw_only=True)

    def name_of(self, label: int) -> str:
        """Return the name of a class, its number when it has none.

        Args:
            label: Number of the class.
        """
        return self.classes[label] if label < len(self.classes) else str(label)

    def above(self, score: float) -> Prediction:
        """Return the prediction without what has a lower score.

        Args:
            score: 0 to 1.
        """
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain numbers, texts, lists and dicts."""
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "task": self.task,
            **self._details(),
        }

    def colour_of(self, label: int) -> Colour:
        """Return the colour of a class: that of the data set, else one that differs from others.

        Args:
            label: Number of the class.
        """
        return self.palette[label] if label < len(self.palette) else drawing.choose_colour(label)

    def draw(self, colour_by: str | None = None) -> np.ndarray:
        """Return a picture (H, W, 3), RGB: the image with the prediction.

        Small images are enlarged; those of more than 4 million pixels are made smaller.

        Args:
            colour_by: Of objects: 'instance' for a colour of its own each, 'class' for that of its
                class; default: 'instance' with a single class, else 'class'.

        Returns:
            The picture.

        Raises:
            UserError: When ``colour_by`` is another word.
            UnreadableImageError: When the image is no longer where it was.
        """
        if colour_by not in (None, *COLOUR_BY):
            raise UserError(f"colour_by must be one of {', '.join(COLOUR_BY)}, got {colour_by!r}")
        return self._draw(drawing.fit(self.content, self.loading), colour_by)

    def rows(self) -> list[list[Any]]:
        """Return the prediction as a table with the columns :attr:`columns`, best rows first."""
        raise NotImplementedError

    def _draw(self, image: np.ndarray, colour_by: str | None) -> np.ndarray:
        raise NotImplementedError

    def _details(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Classification(Prediction):
    """The most likely classes, best first.

    Attributes:
        labels: (K,) numbers of the classes.
        scores: (K,) their scores.
    """

    task: ClassVar[str] = "classification"
    columns: ClassVar[tuple[str, ...]] = ("class", "score")
    labels: np.ndarray
    scores: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the classes, best first."""
        return [self.name_of(label) for label in self.labels]

    def above(self, score: float) -> Classification:
        """Return the prediction without classes of a lower score.

        Args:
            score: 0 to 1.
        """
        keep = self.scores >= score
        return replace(self, labels=self.labels[keep], scores=self.scores[keep])

    def rows(self) -> list[list[Any]]:
        """Return class and score of each class."""
        return [
            [name, round(float(score), 3)]
            for name, score in zip(self.names, self.scores, strict=True)
        ]

    def _draw(self, image: np.ndarray, colour_by: str | None) -> np.ndarray:
        return drawing.draw_classes(
            image, [f"{name}  {score:.3f}" for name, score, *_ in self.rows()]
        )

    def _details(self) -> dict[str, Any]:
        return {
            "labels": self.labels.tolist(),
            "names": self.names,
            "scores": _rounded(self.scores, 6),
        }


@dataclass(frozen=True, eq=False)
class Detection(Prediction):
    """Objects, best first.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels of the image.
        labels: (N,) numbers of the classes.
        scores: (N,) between 0 and 1.
        codes: The masks as COCO's compressed run lengths; None for a detector without masks.
    """

    task: ClassVar[str] = "detection"
    columns: ClassVar[tuple[str, ...]] = ("class", "score", "left, top, right, bottom")
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    codes: tuple[dict[str, Any], ...] | None = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Name of each object's class."""
        return [self.name_of(label) for label in self.labels]

    @property
    def masks(self) -> np.ndarray | None:
        """(N, H, W), bool; decoded anew each time. None for a detector without masks."""
        if self.codes is None:
            return None
        from pycocotools import mask

        if not self.codes:
            return np.zeros((0, self.height, self.width), dtype=bool)
        return np.moveaxis(mask.decode(list(self.codes)), 2, 0).astype(bool)

    def above(self, score: float) -> Detection:
        """Return the prediction without objects of a lower score.

        Args:
            score: 0 to 1.
        """
        keep = self.scores >= score
        codes = self.codes
        if codes is not None:
            codes = tuple(code for code, kept in zip(codes, keep, strict=True) if kept)
        return replace(
            self,
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            scores=self.scores[keep],
            codes=codes,
        )

    def rows(self) -> list[list[Any]]:
        """Return class, score and box of each object."""
        return [
            [name, round(float(score), 3), ", ".join(f"{side:.0f}" for side in box)]
            for name, score, box in zip(self.names, self.scores, self.boxes, strict=True)
        ]

    def _draw(self, image: np.ndarray, colour_by: str | None) -> np.ndarray:
        numbers = self.labels.tolist()
        by_object = colour_by == "instance" or (colour_by is None and len(self.classes) == 1)
        legend = [
            Label(
                f"{self.name_of(number)}: {numbers.count(number)}",
                None if by_object else self.colour_of(number),
            )
            for number in sorted(set(numbers))
        ]
        named = len(numbers) <= MOST_NAMES
        labels = [
            Label(
                f"{name} {score:.2f}" if named else f"{score:.2f}",
                drawing.choose_colour(index) if by_object else self.colour_of(number),
            )
            for index, (name, score, number) in enumerate(
                zip(self.names, self.scores, numbers, strict=True)
            )
        ]
        size = self.height, self.width
        return drawing.draw_objects(image, self.boxes, self.codes or (), labels, legend, size)

    def _details(self) -> dict[str, Any]:
        details = {
            "labels": self.labels.tolist(),
            "names": self.names,
            "scores": _rounded(self.scores, 6),
            "boxes": _rounded(self.boxes, 3),
        }
        if self.codes is not None:
            details["masks"] = [
                {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
                for code in self.codes
            ]
        return details


@dataclass(frozen=True, eq=False)
class Segmentation(Prediction):
    """The class of each pixel.

    Attributes:
        class_map: (H, W) numbers of the classes.
    """

    task: ClassVar[str] = "segmentation"
    columns: ClassVar[tuple[str, ...]] = ("class", "pixels", "share in %")
    class_map: np.ndarray = field(repr=False)

    def counts(self) -> list[tuple[int, int]]:
        """Return number and pixels of the classes that occur, the largest first."""
        labels, pixels = np.unique(self.class_map, return_counts=True)
        order = np.argsort(-pixels, kind="stable")
        return [(int(labels[index]), int(pixels[index])) for index in order]

    def rows(self) -> list[list[Any]]:
        """Return class, pixels and share of each class that occurs."""
        return [
            [self.name_of(label), pixels, round(100 * pixels / self.class_map.size, 1)]
            for label, pixels in self.counts()
        ]

    def _draw(self, image: np.ndarray, colour_by: str | None) -> np.ndarray:
        labels = {
            label: Label(f"{name} {f'{share:g}' if share else '< 0.1'} %", self.colour_of(label))
            for (label, _), (name, _, share) in zip(self.counts(), self.rows(), strict=True)
        }
        return drawing.draw_segments(image, self.class_map, labels)

    def _details(self) -> dict[str, Any]:
        return {
            "pixels": [
                {"label": label, "name": self.name_of(label), "pixels": pixels}
                for label, pixels in self.counts()
            ]
        }


def _rounded(values: np.ndarray, digits: int) -> list:
    return values.astype(float).round(digits).tolist()
