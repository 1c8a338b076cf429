"""Predictions of a classifier, detector or segmentor for any images.

Three lines are enough::

    from mmvitconv.apis.inference import Predictor
    predictor = Predictor("configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py", "best.pth")
    for result in predictor("photos/"): print(result.to_json())
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import Tensor

from mmvitconv.apis.images import (
    Content,
    Source,
    UnreadableImageError,
    build_pipeline,
    content_of,
    decode,
    list_sources,
)
from mmvitconv.apis.results import Classification, Detection, Prediction, Segmentation
from mmvitconv.compat.absent import check_model
from mmvitconv.datasets.image_files import MAX_PIXELS
from mmvitconv.engine.calibration import calibration_batches
from mmvitconv.engine.configuration import load_config
from mmvitconv.engine.runner import require
from mmvitconv.errors import UserError
from mmvitconv.runtime import accelerate, check_runtime
from mmvitconv.weights.addresses import address_of
from mmvitconv.zoo.loading import find_test_dataset, load_model

# What a model of the task leaves in its output.
RESULTS = {
    "classification": "pred_score",
    "detection": "pred_instances",
    "segmentation": "pred_sem_seg",
}
DETECTION_THRESHOLD = 0.3
TOP_K = 5
LOOK_AHEAD = 4  # batches that are read before images of one shape are put together
# Beyond these bounds the model sees a smaller image, and its results are brought to the real size.
LEAST_SIDE_SHARE = 1 / 32  # short side of long side: of a thinner image pipelines make a giant
MOST_PIXELS = 2**23  # of results
MOST_INPUT = 2**21  # pixels that the model gets
MOST_SCORES = 2**29  # of a segmentor, over all pixels and classes
AT_ONCE = 2**25  # of them, when they are brought to the image's size
# its name, where it is, what the model gets, its height and width
Prepared = tuple[str, Content, dict[str, Any], tuple[int, int]]


class Predictor:
    """A model that is ready to look at images.

    Images go through the test pipeline of the config, without its annotations. Images that the
    model sees in the same shape share a forward pass, so that a batch changes no result.

    Args:
        config: Path or name of a config, or the config.
        checkpoint: Its trained weights, a file or an address such as ``'mmvitconv://fcvit_s12'``;
            None for random ones, the same each time.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None takes a GPU where there is one.
        cfg_options: Changes of the config: dotted keys and their values.
        fold: Fold norms and scales of our backbones into the layers beside them, which is faster
            and changes results by rounding only; such a model cannot be trained.
        max_pixels: Most pixels of an image by its header, >= 1; larger ones are left out. Pillow
            has a limit of its own, 179 million.
        runtime: What runs backbone, neck and heads: ``'eager'``, ``'openvino'``,
            ``'onnxruntime'`` or ``'inductor'``, see :func:`mmvitconv.runtime.accelerate`. The first
            start compiles; it pays with hundreds of images.
        precision: ``'fp32'``, or ``'bf16'`` or ``'int8'`` where the runtime has it; int8 takes its
            ranges from 128 images of the config's training data, or else of its validation data.

    Attributes:
        name: Name of the config.
        checkpoint: Path or address of the weights, or None.
        task: ``'classification'``, ``'detection'`` or ``'segmentation'``.
        max_pixels: As given.
        classes: Names of the classes, from the checkpoint, else from the config; may be empty.
        palette: Colours of the classes, RGB; may be empty.
        device: Where the model is.
        model: The model, in eval mode.

    Raises:
        UserError: When config, checkpoint, device or runtime cannot work, or the model calls
            operators of mmcv that are absent.

    Examples:
        >>> predictor = Predictor("fcvit_tiny_mnist", "best.pth")  # doctest: +SKIP
        >>> predictor.predict("digit.png")[0].names  # doctest: +SKIP
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        cfg_options: dict[str, Any] | None = None,
        fold: bool = True,
        max_pixels: int = MAX_PIXELS,
        runtime: str = "eager",
        precision: str = "fp32",
    ) -> None:
        if max_pixels < 1:
            raise UserError(f"max_pixels must be at least 1, got {max_pixels}")
        check_runtime(runtime, precision)
        if not fold and (runtime, precision) != ("eager", "fp32"):
            raise UserError(f"the runtime {runtime!r} folds the model; leave --no-fold out")
        cfg = config if isinstance(config, Config) else load_config(str(config))
        require(cfg, ("test_dataloader",), "to predict")
        loaded = load_model(cfg, checkpoint, cfg_options=cfg_options, device=device)
        check_model(loaded.module)
        for note in loaded.notes:
            warnings.warn(note, stacklevel=2)
        self.name, self.task = loaded.name, loaded.task
        self.model = loaded.module
        if fold:
            seen = calibration_batches(loaded.config) if precision == "int8" else None
            self.model = accelerate(self.model, runtime, precision, inplace=True, calibration=seen)
        self.classes, self.palette = loaded.classes, loaded.palette
        self.checkpoint = None if checkpoint is None else address_of(checkpoint) or str(checkpoint)
        self.device = next(self.model.parameters()).device
        steps = find_test_dataset(loaded.config).get("pipeline") or []
        with DefaultScope.overwrite_default_scope(loaded.config.default_scope):
            loading, self._pipeline = build_pipeline(steps, len(loaded.mean))
        self.max_pixels = max_pixels
        self._loading = loading._replace(max_pixels=max_pixels)
        self._most_pixels = MOST_PIXELS
        if self.task == "segmentation":  # which has a score for each class and pixel
            classes = getattr(getattr(self.model, "decode_head", None), "num_classes", None)
            self._most_pixels = min(MOST_PIXELS, MOST_SCORES // max(classes or 1, 1))
            make_frugal(self.model)
        if checkpoint is None:
            warnings.warn(f"{self.name}: no checkpoint, so the weights are random", stacklevel=2)

    def predict(self, images: Source | Iterable[Source], **options: Any) -> list[Prediction]:
        """Return the predictions for images, in their order; for arguments see :meth:`__call__`."""
        return list(self(images, **options))

    def __call__(
        self,
        images: Source | Iterable[Source],
        batch_size: int = 8,
        score_threshold: float | None = None,
        top_k: int = TOP_K,
        recursive: bool = False,
        on_error: Callable[[str, str], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict, one image after another.

        Args:
            images: Paths, folders, contents of image files, numpy arrays (RGB, not OpenCV's BGR),
                Pillow images, or an iterable of them.
            batch_size: Largest number of images in a forward pass.
            score_threshold: Leave out objects, or classes of a classifier, with a lower score;
                default: 0.3 for detection, 0 for classification. Segmentation has no scores.
            top_k: How many classes a classifier names.
            recursive: Look into the folders inside folders, too.
            on_error: Called with image and reason for each that cannot be read; default: warn.

        Returns:
            An iterator over the predictions, in the order of the images, without those that cannot
            be read.

        Raises:
            UserError: When an argument cannot work, or, at the end, no image could be read.
        """
        if score_threshold is None:
            score_threshold = DETECTION_THRESHOLD if self.task == "detection" else 0.0
        check_settings(batch_size, score_threshold, top_k)
        sources = list_sources(images, recursive)
        predictions = self._predict(sources, batch_size, top_k, on_error or _warn)
        return (prediction.above(score_threshold) for prediction in predictions)

    def _predict(
        self,
        sources: Iterable[Source],
        batch_size: int,
        top_k: int,
        on_error: Callable[[str, str], None],
    ) -> Iterator[Prediction]:
        """Yield unfiltered predictions; read some batches ahead to find images of one shape."""
        numbered = enumerate(sources)
        seen, unread, reason = 0, 0, ""
        while chunk := list(islice(numbered, LOOK_AHEAD * batch_size)):
            seen += len(chunk)
            images = []
            for index, source in chunk:
                is_path = isinstance(source, (str, os.PathLike))
                name = os.fspath(source) if is_path else f"image {index}"
                try:
                    content = content_of(source, self._loading.max_pixels)
                    images.append((name, content, *self._prepare(name, content)))
                except UnreadableImageError as error:
                    unread, reason = unread + 1, reason or f"{name}: {error}"
                    on_error(name, str(error))
            yield from self._run(images, batch_size, top_k)
        if not seen:
            raise UserError("no images were given")
        if unread == seen:
            count = f"none of the {seen} images can be used; the first, " if seen > 1 else ""
            raise UserError(f"{count}{reason}; give images that can be opened")

    def _prepare(self, name: str, content: Content) -> tuple[dict[str, Any], tuple[int, int]]:
        """Run the test pipeline for an image; return the sample, and height and width."""
        image = decode(content, self._loading)
        height, width = image.shape[:2]
        size = bounded_size(height, width, self._most_pixels)
        try:
            # the pipeline makes most large images smaller by itself, as in a test
            sample = None if is_thin(height, width) else self._transform(name, image)
            if sample is None or math.prod(sample["inputs"].shape[-2:]) > MOST_INPUT:
                seen = bounded_size(height, width, min(MOST_INPUT, self._most_pixels))
                small = cv2.resize(image, seen[::-1], interpolation=cv2.INTER_AREA)
                sample = self._transform(name, small)
        except (cv2.error, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UnreadableImageError(
                f"the test pipeline cannot take its {width}x{height} pixels ({reason})"
            ) from error
        if sample["data_samples"].get("ori_shape", size)[:2] != size:
            seen_height, seen_width = sample["data_samples"].img_shape[:2]
            sample["data_samples"].set_metainfo(
                {
                    "ori_shape": size,
                    "scale_factor": (seen_width / size[1], seen_height / size[0]),
                }
            )
        return sample, (height, width)

    def _transform(self, name: str, image: np.ndarray) -> dict[str, Any]:
        shape = image.shape[:2]
        return self._pipeline(
            {
                "img": image,
                "img_shape": shape,
                "ori_shape": shape,
                "img_path": name,
                "img_id": 0,
                "seg_fields": [],
            }
        )

    def _run(self, images: list[Prepared], batch_size: int, top_k: int) -> list[Prediction]:
        """Return the prediction for each image; one shape per forward pass."""
        divisor = getattr(self.model.data_preprocessor, "pad_size_divisor", 1)
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (_, _, sample, _) in enumerate(images):
            shape = tuple(math.ceil(side / divisor) for side in sample["inputs"].shape[-2:])
            groups.setdefault(shape, []).append(index)
        predictions: dict[int, Prediction] = {}
        for members in groups.values():
            pixels = max(self._pixels(images[index][2]) for index in members)
            # of large images so many that a pass takes no more memory than one of the largest
            limit = batch_size if pixels <= MOST_PIXELS // 4 else max(1, MOST_PIXELS // pixels)
            step = min(batch_size, limit)
            for start in range(0, len(members), step):
                batch = members[start : start + step]
                results = self._run_batch([images[index] for index in batch], top_k)
                predictions.update(zip(batch, results, strict=True))
        return [predictions[index] for index in range(len(images))]

    def _pixels(self, sample: dict[str, Any]) -> int:
        """Return the pixels of what the model gets, or of the masks and maps that it makes."""
        shapes = [sample["inputs"].shape[-2:]]
        if self.task != "classification":
            shapes.append(sample["data_samples"].ori_shape[:2])
        return max(map(math.prod, shapes))

    def _run_batch(self, images: list[Prepared], top_k: int) -> list[Prediction]:
        """Return the predictions of a forward pass; its outputs, which may be large, end here."""
        outputs = self._forward([sample for _, _, sample, _ in images])
        return [
            self._read(output, name, content, size, top_k)
            for (name, content, _, size), output in zip(images, outputs, strict=True)
        ]

    @torch.inference_mode()
    def _forward(self, samples: list[dict[str, Any]]) -> list[Any]:
        batch = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
        try:
            return self.model.test_step(batch)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"a batch of {len(samples)} images does not fit into the memory of {self.device}; "
                "give a smaller batch size"
            ) from error

    def _read(
        self, output: Any, name: str, content: Content, size: tuple[int, int], top_k: int
    ) -> Prediction:
        """Turn the model's output into a prediction for an image of that height and width."""
        if RESULTS[self.task] not in output:
            raise UserError(
                f"a model of the type {type(self.model).__name__} gives no {RESULTS[self.task]}; "
                "supported are classifiers with one head, detectors with boxes (and masks), and "
                "segmentors with a class for each pixel"
            )
        height, width = size
        common = {
            "image": name,
            "width": width,
            "height": height,
            "classes": self.classes,
            "palette": self.palette,
            "content": content,
            "loading": self._loading,
        }
        if self.task == "classification":
            scores, labels = output.pred_score.cpu().float().sort(descending=True, stable=True)
            return Classification(
                **common, labels=labels[:top_k].numpy(), scores=scores[:top_k].numpy()
            )
        if self.task == "segmentation":
            class_map = output.pred_sem_seg.data[0].cpu().numpy()
            kind = np.uint8 if class_map.max() < 256 else np.uint16
            return Segmentation(**common, class_map=stretch(class_map.astype(kind), size))
        found = output.pred_instances.cpu()
        masks = found.pop("masks") if "masks" in found else None  # not copied into their order
        order = found.scores.argsort(descending=True, stable=True)
        found = found[order]
        scale = np.divide((width, height) * 2, output.ori_shape[1::-1] * 2, dtype=np.float32)
        return Detection(
            **common,
            boxes=found.bboxes.float().numpy() * scale,
            labels=found.labels.numpy(),
            scores=found.scores.float().numpy(),
            codes=None if masks is None else _encode_masks((masks[i] for i in order), size),
        )


def make_frugal(segmentor: Any) -> None:
    """Let a segmentor of mmsegmentation choose classes without the scores of all at once.

    Its scores are made larger a few classes at a time, and the best until then are kept: the same
    numbers are compared. Its result has no ``seg_logits``.

    Args:
        segmentor: The model, changed in place; others are left as they are.
    """
    from mmseg.models import BaseSegmentor
    from mmseg.models.utils import resize

    if getattr(type(segmentor), "postprocess_result", None) is not BaseSegmentor.postprocess_result:
        return
    original = segmentor.postprocess_result

    def postprocess_result(logits: Tensor, samples: list[Any] | None = None) -> Any:
        if samples is None or logits.shape[1] == 1:
            return original(logits, samples)
        for own, sample in zip(logits, samples, strict=True):
            meta = sample.metainfo
            padding = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
            left, right, top, bottom = padding
            own = own[None, :, top : own.shape[1] - bottom, left : own.shape[2] - right]
            if meta.get("flip"):
                own = own.flip(dims=(3 if meta["flip_direction"] == "horizontal" else 2,))
            size = meta["ori_shape"][:2]
            count = max(1, AT_ONCE // math.prod(size))
            for first in range(0, own.shape[1], count):
                part = resize(
                    own[:, first : first + count],
                    size=size,
                    mode="bilinear",
                    align_corners=segmentor.align_corners,
                    warning=False,
                )
                scores, classes = part[0].max(dim=0)
                if first == 0:
                    best, chosen = scores, classes
                else:
                    better = scores > best
                    best = torch.where(better, scores, best)
                    chosen = torch.where(better, classes + first, chosen)
            sample.set_data({"pred_sem_seg": PixelData(data=chosen[None])})
        return samples

    segmentor.postprocess_result = postprocess_result


def is_thin(height: int, width: int) -> bool:
    """Tell whether a pipeline that brings the short side to a size would make a giant."""
    return min(height, width) < max(height, width) * LEAST_SIDE_SHARE


def bounded_size(height: int, width: int, most: int) -> tuple[int, int]:
    """Return the size in which an image is looked at.

    Args:
        height: Of the image in pixels.
        width: As ``height``.
        most: Most pixels of the result, at least 1,000.

    Returns:
        Height and width: those of the image, unless it has more pixels or is very thin.
    """
    longest = math.sqrt(most * LEAST_SIDE_SHARE) if is_thin(height, width) else math.inf
    scale = min(1.0, math.sqrt(most / (height * width)), longest / max(height, width))
    least = math.ceil(max(height, width) * scale * LEAST_SIDE_SHARE)
    return max(least, int(height * scale), 1), max(least, int(width * scale), 1)


def stretch(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a map of class numbers, or a mask, to another height and width.

    Args:
        values: (H, W), integers.
        size: Height and width.

    Returns:
        The map; the very same when it has that size.
    """
    if values.shape == tuple(size):
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def check_settings(batch_size: int, score_threshold: float, top_k: int) -> None:
    """Raise a UserError for numbers that make no sense.

    Args:
        batch_size: At least 1.
        score_threshold: 0 to 1.
        top_k: At least 1.
    """
    for name, number in (("batch size", batch_size), ("top-k", top_k)):
        if number < 1:
            raise UserError(f"the {name} must be at least 1, got {number}")
    if not 0 <= score_threshold <= 1:
        raise UserError(f"the score threshold must be between 0 and 1, got {score_threshold}")


def _encode_masks(masks: Iterable[Any], size: tuple[int, int]) -> tuple[dict[str, Any], ...]:
    """Return masks as COCO's compressed run lengths for images of that height and width."""
    from pycocotools import mask

    return tuple(
        mask.encode(np.asfortranarray(stretch(np.asarray(one).astype(np.uint8), size)))
        for one in masks
    )


def _warn(image: str, reason: str) -> None:
    warnings.warn(f"{image} is left out: {reason}", stacklevel=4)
