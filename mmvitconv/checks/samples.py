"""What is wrong with one sample: decided here for training, evaluation and the check beforehand.

:class:`CheckedPipeline` runs a dataset's pipeline and raises a :class:`BadSampleError` for what
cannot be read and for what would be used although it is wrong. The policy is in docs/bad_data.md.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from mmengine.dataset import Compose
from PIL import UnidentifiedImageError

from mmvitconv.checks.annotations import ANOTHER_SIZE, mask_problem
from mmvitconv.checks.steps import Failure, explain_step
from mmvitconv.datasets.image_files import count_pixels, open_image, orientation_of
from mmvitconv.datasets.layout import is_remote
from mmvitconv.datasets.listing import what_is_there
from mmvitconv.datasets.loading import LoadBands
from mmvitconv.errors import UserError, printable

__all__ = [
    "BadSampleError",
    "CheckedPipeline",
    "Problem",
    "Roots",
    "class_numbers",
    "conversions",
    "innermost",
    "paths_of",
    "sample_infos",
]

IGNORED_LABEL = 255
UNLOADABLE = "sample cannot be loaded"
NOT_THE_DATA = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
MODES = {  # of Pillow that are not RGB
    **dict.fromkeys(("1", "L", "LA"), "grayscale"),
    **dict.fromkeys(("CMYK", "YCCK"), "CMYK"),
    **dict.fromkeys(("P", "PA"), "palette"),
}


class Problem(NamedTuple):
    """What is wrong.

    Attributes:
        kind: The same words for all files with the problem, to count them.
        file: The file to look at.
        detail: What was found there; may be empty.
    """

    kind: str
    file: str
    detail: str = ""

    def __str__(self) -> str:
        # a log takes no halves of characters, which names of files may have
        return printable(
            f"{self.file}: {self.kind}" + f" ({self.detail})" * bool(self.detail), 1200
        )


class BadSampleError(Exception):
    """A sample that must not be used as it is.

    Args:
        problem: What is wrong with it.
        failure: The step of the pipeline that failed, where no file is to blame.
    """

    def __init__(self, problem: Problem, failure: Failure | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.failure = failure

    def __str__(self) -> str:
        return str(self.problem)


def innermost(dataset: Any) -> Iterator[Any]:
    """Yield the datasets inside wrappers (concatenated, repeated, mixed, sliced ...).

    Args:
        dataset: Any dataset.

    Yields:
        Those that wrap no other one, each once.
    """
    seen: set[int] = set()
    waiting = [dataset]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        inner = []
        for name in ("dataset", "_dataset", "datasets"):
            value = getattr(current, name, None)
            inner += value if isinstance(value, (list, tuple)) else [value]
        inner = [item for item in inner if is_dataset(item)]
        if not inner:
            yield current
        waiting += reversed(inner)


def is_dataset(value: Any) -> bool:
    """Tell whether a value is a dataset, rather than a name or a config."""
    return hasattr(value, "__getitem__") and not isinstance(value, (str, Mapping))


def sample_infos(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Yield what a dataset knows of its samples before it opens their files.

    Args:
        dataset: A dataset of MMEngine's kind; of others nothing is known.

    Yields:
        One dict per sample, not to be changed.
    """
    if not hasattr(dataset, "get_data_info"):
        return
    kept = [] if getattr(dataset, "serialize_data", True) else getattr(dataset, "data_list", [])
    for index in range(len(dataset)):
        # get_data_info would make a deep copy
        yield kept[index] if kept else dataset.get_data_info(index)


def paths_of(sample: Mapping[str, Any]) -> list[str]:
    """Return the paths that a sample would open.

    Args:
        sample: What the annotations say about it; keys that end in "path" or "paths" count.

    Returns:
        The paths, in the order of the keys.
    """
    found: list[str] = []
    for key, value in sample.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if key.endswith(("path", "paths")):
            found += [item for item in values if isinstance(item, str) and item]
        elif key == "images":  # frames of a video
            for frame in values:
                found += paths_of(frame) if isinstance(frame, Mapping) else []
    return found


def class_numbers(sample: Mapping[str, Any]) -> list[int]:
    """Return the class numbers in the annotations of a sample.

    Args:
        sample: What the annotations say about it.

    Returns:
        Those of the image and of its boxes; label maps have theirs in files.
    """
    labels = sample.get("gt_label")
    found = list(labels) if isinstance(labels, (list, tuple)) else [labels]
    found += [box.get("bbox_label") for box in sample.get("instances") or ()]
    return [label for label in found if isinstance(label, int)]


class Roots:
    """The folders that the files of a dataset must be in.

    These are ``data_root`` and the folders of ``data_prefix``: the config is trusted, the
    annotation file is not. Paths are compared as they are written, so that links which the user
    made inside the root may lead anywhere.

    Args:
        dataset: A dataset that wraps no other one.
    """

    def __init__(self, dataset: Any) -> None:
        root = getattr(dataset, "data_root", None) or ""
        prefixes = getattr(dataset, "data_prefix", None) or {}
        prefixes = [prefixes] if isinstance(prefixes, str) else list(prefixes.values())
        folders = [folder for folder in (root, *prefixes) if isinstance(folder, str) and folder]
        node = {"backend_args": getattr(dataset, "backend_args", None)}
        if any(is_remote(folder, node) for folder in folders) or (
            not root and len(folders) < max(1, len(prefixes))
        ):
            folders = []  # elsewhere, or the paths of the annotations are all there is
        self.source = str(getattr(dataset, "ann_file", "") or root or "the dataset")
        self.folders = [os.path.abspath(folder).rstrip("/") for folder in folders]
        self._absolute = tuple(folder + "/" for folder in self.folders)
        self._written = tuple(folder.rstrip("/") + "/" for folder in folders)

    def check(self, sample: Mapping[str, Any], name: object = "") -> None:
        """Raise when a file of a sample is elsewhere.

        Args:
            sample: What the annotations say about it.
            name: What the sample is called; default: its image id or its number.

        Raises:
            UserError: With the annotation file, the sample and the path.
        """
        for path in paths_of(sample) if self.folders else ():
            if path.startswith(self._written) and ".." not in path:
                continue
            absolute = os.path.abspath(path) + "/"
            if "://" not in path and absolute.startswith(self._absolute):
                continue
            name = name or sample.get("img_id", sample.get("sample_idx", "?"))
            raise UserError(
                f"{self.source}: sample {name} names the file {path!r}, which is outside the data "
                f"root {self.folders[0]!r}; annotations may only name files inside it: fix the "
                "annotation, or name that folder in data_prefix of the config"
            )


class CheckedPipeline(Compose):
    """A pipeline that checks each sample before and after it is loaded, and changes none.

    What a transform adds (the image, label maps, boxes, class numbers) is checked as soon as it is
    there, whichever transform that is.

    Args:
        pipeline: The dataset's pipeline.
        dataset: The dataset, for its folders and classes.
        num_classes: Number of classes where the dataset does not know it.
        loading_only: Leave out everything after the last transform with ``backend_args``,
            MMEngine's argument for what opens files; where none has it, the whole pipeline counts.
        place: The pipeline's place in the config.
    """

    def __init__(
        self,
        pipeline: Any,
        dataset: Any,
        num_classes: int | None = None,
        loading_only: bool = False,
        place: str = "pipeline",
    ) -> None:
        is_list = isinstance(pipeline, Compose) and type(pipeline).__call__ is Compose.__call__
        self.transforms = list(pipeline.transforms) if is_list else [pipeline]
        loaders = [n for n, item in enumerate(self.transforms) if hasattr(item, "backend_args")]
        self.place = place
        self.steps = self.transforms
        self.loading = loaders[-1] + 1 if loaders else len(self.steps)
        if loading_only:
            self.transforms = self.steps[: self.loading]
        reader = next((item for item in self.transforms if hasattr(item, "imdecode_backend")), None)
        self.backend = getattr(reader, "imdecode_backend", "cv2")
        self.color_type = getattr(reader, "color_type", "color")
        # which says itself what becomes of other depths and bands
        self.is_converted = not isinstance(reader, LoadBands)
        self.is_local = not any(
            is_remote("", {"backend_args": getattr(item, name, None)})
            for item in (reader, dataset)
            for name in ("backend_args", "file_client_args")
        )
        self.roots = Roots(dataset)
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
        is_list = isinstance(classes, (list, tuple))
        self.num_classes = len(classes) if is_list and classes else num_classes
        # only mmseg's maps have the numbers of the classes in them
        self.has_class_maps = hasattr(dataset, "reduce_zero_label")
        self.ignore_index = getattr(dataset, "ignore_index", IGNORED_LABEL)

    def __call__(self, data: dict[str, Any]) -> Any:
        """Load, check and transform a sample.

        Args:
            data: What the annotations say about it.

        Returns:
            What the pipeline returns, ``None`` included.

        Raises:
            BadSampleError: When it cannot be loaded or is wrong.
            UserError: When one of its files is outside the data root.
        """
        self.roots.check(data)
        files = data.get("img_path"), data.get("seg_map_path")
        paths = paths_of(data)
        stated = data.get("height"), data.get("width")
        instances = data.get("instances")
        masks = [
            item["mask"]
            for item in (instances if isinstance(instances, (list, tuple)) else ())
            if isinstance(item, Mapping) and item.get("mask")
        ]
        name = next(iter(paths), f"sample {data.get('sample_idx', '?')}")
        if self.is_local:
            self._check_openable(path for path in paths if not is_remote(path))
        result: Any = data
        shape: tuple[int, ...] | None = None
        number = 0
        checked: set[str] = set()
        try:
            for number in range(len(self.transforms)):
                result = self.transforms[number](result)
                if result is None:
                    return None
                if not isinstance(result, Mapping):
                    continue
                if shape is None and ("ori_shape" in result or "img" in result):
                    own = "ori_shape" in result
                    shape = tuple(result["ori_shape"] if own else np.shape(result["img"]))[:2]
                    self._check_files(*files)
                    self._check_sizes(name, shape, stated)
                    self._check_masks(name, shape, masks)
                self._check_loaded(name, result, shape, checked)
        except (BadSampleError, UserError):
            raise
        except Exception as error:
            if isinstance(error, MemoryError) or getattr(error, "errno", None) in NOT_THE_DATA:
                raise
            problem = explain(error, paths if self.is_local else [], name)
            failure = None
            if problem.kind == UNLOADABLE and self.steps:
                failure = explain_step(error, self.steps, number, self.place)
                reason = "; ".join(filter(None, failure[1:3]))
                problem = Problem(UNLOADABLE, name, f"{failure.place}: {reason}")
                failure = failure._replace(loads=number < self.loading)
            raise BadSampleError(problem, failure) from error
        return result

    def conversions(self, path: str) -> list[str]:
        """Say in which ways reading changes an image, as :func:`conversions` does.

        Args:
            path: A local file.

        Returns:
            Without what this pipeline keeps, and without a transparency that is none.

        Raises:
            OSError: If it is not an image.
        """
        found = conversions(path)
        if "transparent" in found and (self.color_type == "unchanged" or is_opaque(path)):
            found.remove("transparent")
        if "EXIF-rotated" in found and self.color_type.endswith("ignore_orientation"):
            found.remove("EXIF-rotated")
        return found

    def complain(self, problem: Problem) -> None:
        """Raise for a sample that was loaded but is wrong; subclasses may go on with it."""
        raise BadSampleError(problem)

    def _check_openable(self, paths: Iterable[str]) -> None:
        """Refuse files that would not end, or take all the memory, when they are opened."""
        for path in paths:
            if os.path.exists(path) and not os.path.isfile(path):
                raise BadSampleError(Problem("file is missing", path, what_is_there(path)))
            found = ""
            with suppress(Exception):  # missing, or no image: loading says so
                found = count_pixels(path)
            if found:
                raise BadSampleError(Problem("image is too large", path, found))

    def _check_files(self, image: Any, label_map: Any) -> None:
        """Check what decoders let pass; a few bytes of each file are read."""
        if not self.is_local:
            return
        if isinstance(image, str) and not is_remote(image):
            if is_cut_off(image):
                self.complain(Problem("file cannot be decoded as an image", image, "cut off"))
            if self.backend == "pillow" and png_depth(image) == 16:
                kind = "16-bit image, which the backend 'pillow' would cut to white"
                self.complain(Problem(kind, image, "imdecode_backend='cv2' scales it"))
        if (
            isinstance(label_map, str)
            and self.has_class_maps
            and png_depth(label_map) == 16
            and np.asarray(open_image(label_map)).max() > 255
        ):
            self.complain(Problem("label map has numbers above 255", label_map))

    def _check_sizes(self, name: str, shape: tuple[int, ...], stated: Sequence[Any]) -> None:
        """Check the size of an image against what its annotations say."""
        if None not in stated and tuple(stated) != shape:
            found = f"{words(shape)}, annotated {words(stated)}{rotation_of(name)}"
            self.complain(Problem("image has another size than its annotations say", name, found))

    def _check_masks(self, name: str, shape: tuple[int, ...], masks: Sequence[Any]) -> None:
        """Refuse masks that C code would not survive, under any policy."""
        for mask in masks:
            problem = mask_problem(mask, *shape)
            if problem == ANOTHER_SIZE:
                found = f"{words(mask['size'])}, image {words(shape)}"
                self.complain(Problem(problem, name, found))
            elif problem:
                raise BadSampleError(Problem(problem, name, f"annotated in {self.roots.source}"))

    def _check_loaded(
        self,
        name: str,
        sample: Mapping[str, Any],
        shape: tuple[int, ...] | None,
        checked: set[str],
    ) -> None:
        """Check what is new against the size of the image and the number of classes."""
        maps = sample.get("seg_fields") or ["gt_seg_map"]
        keys = ("gt_label",) if shape is None else ("gt_label", *maps, "gt_bboxes")
        new = [key for key in keys if key in sample and key not in checked]
        checked.update(new)
        for key in new:
            if key == "gt_label":
                self._check_numbers(name, sample[key], "class number")
            elif key == "gt_bboxes":
                self._check_boxes(name, sample, shape)
            elif isinstance(sample[key], np.ndarray):
                self._check_map(name, sample.get("seg_map_path"), key, sample[key], shape)

    def _check_map(
        self, name: str, path: Any, key: str, values: np.ndarray, shape: tuple[int, ...]
    ) -> None:
        """Check a map of labels."""
        file = path if isinstance(path, str) else name
        if values.ndim != 2:
            kind = "label map has colours instead of one channel of numbers"
            self.complain(Problem(kind, file, f"{values.ndim} dimensions"))
            return
        if values.shape != shape:
            found = f"{words(values.shape)}, image {words(shape)}{rotation_of(name)}"
            self.complain(Problem("label map has another size than its image", file, found))
        if key == "gt_seg_map" and self.has_class_maps and self.num_classes and values.size:
            # one pass over the map: the ignored label 255 becomes 0, the others grow by one
            fast = values.dtype == np.uint8 and self.ignore_index == 255
            legal = values if fast else values[values != self.ignore_index]
            largest = int((legal + 1).max()) - 1 if fast else int(legal.max(initial=0))
            if largest >= self.num_classes:
                found = f"{largest}, legal are 0 to {self.num_classes - 1} and {self.ignore_index}"
                self.complain(Problem("label map has an unknown label", file, found))

    def _check_boxes(self, name: str, sample: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        """Check the boxes, their labels and the number of their masks."""
        boxes = np.asarray(getattr(sample["gt_bboxes"], "tensor", sample["gt_bboxes"]))
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            return
        left, top, right, bottom = boxes.T
        for kind, wrong in (
            ("box with NaN or infinity", ~np.isfinite(boxes).all(axis=1)),
            ("box of zero or negative area", (right <= left) | (bottom <= top)),
            (
                "box outside its image",
                (right <= 0) | (bottom <= 0) | (left >= shape[1]) | (top >= shape[0]),
            ),
        ):
            if wrong.any():
                found = ", ".join(f"{value:g}" for value in boxes[wrong][0])
                self.complain(Problem(kind, name, found))
        self._check_numbers(name, sample.get("gt_bboxes_labels"), "label of a box")
        masks = sample.get("gt_masks")
        if masks is not None and len(masks) != len(boxes):
            # mmdet's BitmapMasks reshapes masks of another size
            found = f"{len(masks)} masks, {len(boxes)} boxes"
            self.complain(Problem("mask has another size than its image", name, found))

    def _check_numbers(self, name: str, numbers: Any, what: str) -> None:
        """Check class numbers, given as one or many."""
        if numbers is None or not self.num_classes:
            return
        values = np.atleast_1d(np.asarray(numbers))
        if values.dtype.kind not in "iu":
            return
        wrong = values[(values < 0) | (values >= self.num_classes)]
        if wrong.size:
            found = f"{wrong[0]}, legal are 0 to {self.num_classes - 1}"
            self.complain(Problem(f"{what} is unknown", name, found))


def explain(error: Exception, paths: Sequence[str], name: str) -> Problem:
    """Say why the pipeline raised an error, with the file of the sample that caused it."""
    local = [path for path in paths if not is_remote(path)]
    for path in local:
        if not os.path.isfile(path):
            return Problem("file is missing", path, what_is_there(path))
        if not os.access(path, os.R_OK):
            return Problem("file may not be read", path, "permission denied")
        if os.path.getsize(path) == 0:
            return Problem("file is empty", path)
    for path in local:
        if reason := decoding_error(path):
            found = "" if isinstance(reason, UnidentifiedImageError) else str(reason)
            return Problem("file cannot be decoded as an image", path, found)
    text = " ".join(str(error).split())[:300]
    if text.startswith("failed to load image"):
        return Problem("file cannot be decoded as an image", name)
    return Problem(UNLOADABLE, name, f"{type(error).__name__}: {text}")


def is_cut_off(path: str) -> bool:
    """Tell whether a JPEG file ends too early; older versions of OpenCV paint the rest grey."""
    if not path.lower().endswith((".jpg", ".jpeg")):
        return False
    with open(path, "rb") as file:
        file.seek(-2, os.SEEK_END)
        if file.read(2) == b"\xff\xd9":
            return False
    return decoding_error(path) is not None  # there may be something behind the picture


def decoding_error(path: str) -> Exception | None:
    """Return the error with which Pillow decodes an image, None if there is none."""
    try:
        with open_image(path) as image:
            image.load()
    except Exception as error:  # of many kinds for damaged files
        return error
    return None


def png_depth(path: str) -> int:
    """Return the bits per channel of a PNG file; 0 for other files."""
    if not path.lower().endswith(".png") or is_remote(path):
        return 0
    with open(path, "rb") as file:
        start = file.read(25)
    return start[24] if start.startswith(b"\x89PNG") and len(start) == 25 else 0


def rotation_of(path: str) -> str:
    """Return a remark if reading turns an image, as its camera's orientation says; else ''."""
    with suppress(Exception):
        if "EXIF-rotated" in conversions(path):
            return "; its EXIF orientation turns it on reading"
    return ""


def words(shape: Sequence[int]) -> str:
    """Return (height, width) as people write it."""
    return "x".join(map(str, reversed(shape)))


def is_opaque(path: str) -> bool:
    """Tell whether an image that could have transparency has none."""
    with open_image(path) as image:
        return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def conversions(path: str) -> list[str]:
    """Say in which way reading changes an image to 8-bit colours; only its header is read.

    Args:
        path: A local file.

    Returns:
        Any of 'grayscale', 'CMYK', 'palette', 'transparent', '16-bit' and 'EXIF-rotated'.

    Raises:
        OSError: If it is not an image.
    """
    with open_image(path) as image:
        found = [MODES[image.mode]] if image.mode in MODES else []
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            found.append("transparent")
        if image.mode.startswith(("I", "F")) or png_depth(path) == 16:
            found.append("16-bit")
        if orientation_of(image) not in (0, 1):
            found.append("EXIF-rotated")
    return found
