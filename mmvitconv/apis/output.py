"""Predictions for a folder of images as pictures and one JSON file; schema: docs/inference.md."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmvitconv.apis.images import UnreadableImageError, find_images
from mmvitconv.apis.inference import TOP_K, Predictor
from mmvitconv.apis.results import Prediction, Segmentation
from mmvitconv.datasets.progress import progress
from mmvitconv.engine.runner import require_writable
from mmvitconv.errors import UserError
from mmvitconv.version import __version__

JSON_NAME = "predictions.json"


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        file: The JSON file.
        images: How many images have a prediction.
        errors: Images that could not be read, each with the reason.
        seconds: How long reading, predicting and drawing took.
    """

    file: Path
    images: int
    errors: tuple[dict[str, str], ...]
    seconds: float


def save_predictions(
    predictor: Predictor,
    place: str | os.PathLike,
    out: str | os.PathLike,
    batch_size: int = 8,
    score_threshold: float | None = None,
    top_k: int = TOP_K,
    recursive: bool = False,
    colour_by: str | None = None,
) -> Summary:
    """Predict for an image or a folder; write a picture for each image and ``predictions.json``.

    Args:
        predictor: The model.
        place: An image or a folder of images.
        out: The folder to write to, created when missing.
        batch_size: As of :class:`Predictor`, like all that follow.
        score_threshold: What has a lower score is neither drawn nor listed.
        top_k: How many classes a classifier names.
        recursive: Look into the folders inside, too.
        colour_by: As of :meth:`mmvitconv.apis.results.Prediction.draw`.

    Returns:
        What was written.

    Raises:
        UserError: When an argument cannot work, or no image can be read.
    """
    place, out = Path(place).expanduser(), Path(out).expanduser()
    images = choose_images(place, out, recursive)
    names = dict(zip(map(str, images), name_outputs(place, images), strict=True))
    refuse_overwriting(images, out, names.values())
    require_writable(out, "out")
    errors: list[dict[str, str]] = []
    results = predictor(
        progress(images, "predicting"),
        batch_size=batch_size,
        score_threshold=score_threshold,
        top_k=top_k,
        on_error=lambda image, reason: errors.append({"image": image, "error": reason}),
    )
    started = time.perf_counter()
    entries = []
    for result in results:
        try:
            entries.append(save(result, out, names[result.image], colour_by))
        except UnreadableImageError as error:  # it has vanished or changed meanwhile
            errors.append({"image": result.image, "error": str(error)})
    seconds = time.perf_counter() - started
    content = {
        "mmvitconv": __version__,
        "config": predictor.name,
        "checkpoint": predictor.checkpoint,
        "task": predictor.task,
        "classes": list(predictor.classes),
        "predictions": entries,
        "errors": errors,
    }
    file = out / JSON_NAME
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # names of files that are no text become escapes, as JSON has them
    file.write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))
    return Summary(file, len(entries), tuple(errors), seconds)


def choose_images(
    place: str | os.PathLike, out: str | os.PathLike, recursive: bool = False
) -> list[Path]:
    """List the images at a place that results in a folder do not touch.

    Args:
        place: An image or a folder of images.
        out: The folder for the results.
        recursive: Look into the folders inside, too.

    Returns:
        The images, without the pictures of an earlier run into the same folder.

    Raises:
        UserError: When there is no image, or the images are in the folder for the results.
    """
    images = find_images(place, recursive)
    # Path.resolve() raises a RuntimeError at links in a circle
    results = Path(os.path.realpath(Path(out).expanduser()))
    found = Path(os.path.realpath(Path(place).expanduser()))
    is_inside = found in results.parents
    if is_inside and (results / JSON_NAME).is_file():
        images = [image for image in images if results not in Path(os.path.realpath(image)).parents]
    folders = [Path(os.path.realpath(image.parent)) for image in images]
    if any(results == folder or (is_inside and results in folder.parents) for folder in folders):
        raise UserError(f"--out {str(out)!r} is the folder of the images; give another one")
    return images


def save(result: Prediction, out: Path, name: str, colour_by: str | None = None) -> dict[str, Any]:
    """Write the picture of a prediction, and the class map of a segmentation.

    Args:
        result: The prediction.
        out: The folder.
        name: Path of the picture inside it, without ``.png``.
        colour_by: As of :meth:`Prediction.draw`.

    Returns:
        The prediction for the JSON file, with the paths of what was written.
    """
    picture = Path(f"{name}.png")
    (out / picture).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(result.draw(colour_by)).save(out / picture)
    entry = {**result.to_json(), "picture": picture.as_posix()}
    if isinstance(result, Segmentation):
        class_map = Path(f"{name}.classes.png")
        picture_of_classes = Image.fromarray(result.class_map)
        if picture_of_classes.mode == "L":  # the numbers stay, and viewers show colours
            colours = [result.colour_of(label) for label in range(256)]
            picture_of_classes.putpalette([part for colour in colours for part in colour])
        picture_of_classes.save(out / class_map)
        entry["class_map"] = class_map.as_posix()
    return entry


def name_outputs(place: Path, images: Sequence[Path]) -> list[str]:
    """Name the pictures after the images, so that no two are the same.

    Args:
        place: The image, or the folder they are in.
        images: The images.

    Returns:
        Paths inside the folder for the results, without suffix; where two images differ in their
        suffix only (``a.png``, ``a.jpg``), all names keep it.
    """
    root = place if place.is_dir() else place.parent
    inside = [image.relative_to(root) for image in images]
    short = [str(path.with_suffix("")) for path in inside]
    written = [f"{name}{end}".casefold() for name in short for end in ("", ".classes")]
    return short if len(set(written)) == len(written) else [str(path) for path in inside]


def refuse_overwriting(images: Sequence[Path], out: Path, names: Iterable[str]) -> None:
    """Raise a UserError when a result would replace an image.

    Args:
        images: The images.
        out: The folder for the results.
        names: From :func:`name_outputs`.
    """
    given = {os.path.realpath(image) for image in images}
    for name in names:
        for target in (out / f"{name}.png", out / f"{name}.classes.png"):
            if os.path.realpath(target) in given:
                raise UserError(
                    f"the result {str(target)!r} would replace an image that is to be predicted; "
                    "give another folder for the results"
                )
