"""Show what a trained detector does: image, ground truth and prediction side by side, and metrics.

python tools/misc/demo_report.py CONFIG CHECKPOINT --out-dir DIR [--metrics-from WORK_DIR]

Writes DIR/report.png and DIR/metrics.json. The metrics are those that tools/test.py left in
WORK_DIR (or in a json file); without --metrics-from the test split is evaluated here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Checkpoints are files from strangers; must be set before anything imports torch.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

import matplotlib
import mmengine
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, init_default_scope

from mmvitconv import __version__
from mmvitconv.apis.images import Loading, decode_to_show
from mmvitconv.cli import execute
from mmvitconv.datasets.layout import check_data
from mmvitconv.datasets.progress import progress
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.zoo.loading import load_model

COLUMNS = ("image", "ground truth", "prediction")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "demo_report.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", type=Path, help="config of a detector, or the name of a shipped one"
    )
    parser.add_argument("checkpoint", type=Path, help="its trained weights")
    parser.add_argument("--out-dir", type=Path, required=True, help="where to write")
    parser.add_argument(
        "--metrics-from", type=Path, help="work dir of tools/test.py, or a json file with metrics"
    )
    parser.add_argument("--rows", type=int, default=4, help="images shown (default: %(default)s)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="predictions below it are not drawn (default: %(default)s)",
    )
    parser.add_argument(
        "--train-seconds", type=float, help="how long training took, for metrics.json"
    )
    return parser


def load_detector(cfg: Config, checkpoint: Path) -> torch.nn.Module:
    """Build the model of a config and load all of its weights.

    Args:
        cfg: config of a detector.
        checkpoint: file with its state dict.

    Returns:
        The model in eval mode.

    Raises:
        CheckpointError: if the file is unsafe or damaged, or its keys or shapes do not match.
    """
    return load_model(cfg, checkpoint).module


def predict(
    model: torch.nn.Module, dataset: Any, rows: int, evaluator: Evaluator | None
) -> tuple[list[Any], dict[str, Any]]:
    """Run the detector.

    Args:
        model: from :func:`load_detector`.
        dataset: the held-out images, with the test pipeline.
        rows: how many predictions are kept.
        evaluator: what evaluates the whole dataset; None to run the first ``rows`` images only.

    Returns:
        The first predictions (``DetDataSample``), and the metrics (empty without evaluator).
    """
    count = len(dataset) if evaluator else min(rows, len(dataset))
    samples = []
    with torch.no_grad():
        for index in progress(range(count), "predicting"):
            batch = pseudo_collate([dataset[index]])
            outputs = model.test_step(batch)
            if index < rows:
                # The evaluator may change its inputs.
                samples.append(outputs[0].cpu().clone())
            if evaluator:
                evaluator.process(data_samples=outputs, data_batch=batch)
    return samples, evaluator.evaluate(count) if evaluator else {}


def read_metrics(source: Path) -> dict[str, float]:
    """Read the metrics of a test run.

    Args:
        source: a json file with metrics, or a work dir of tools/test.py: MMEngine writes them to
            ``<time>/<time>.json`` there; the newest file counts.

    Returns:
        Metric -> value, e.g. ``'coco/segm_mAP_50'`` -> 0.78.

    Raises:
        UserError: if there are none.
    """
    if source.is_dir():
        files = [path for path in source.rglob("*.json") if path.stem == path.parent.name]
        files.sort(key=lambda path: path.stat().st_mtime)
    else:
        files = [source] if source.is_file() else []
    if not files:
        raise UserError(
            f"--metrics-from {source} holds no metrics of a test run; give the --work-dir of "
            "tools/test.py, or leave the option out to evaluate here"
        )
    try:
        metrics = json.loads(files[-1].read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{files[-1]} is not a json file with metrics: {error}") from error
    if not isinstance(metrics, Mapping):
        raise UserError(f"{files[-1]} holds a {type(metrics).__name__}, not a table of metrics")
    return dict(metrics)


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the metric for the title: mask AP50 if there, else box AP50."""
    for part, name in (("segm_mAP_50", "mask AP50"), ("bbox_mAP_50", "box AP50")):
        for key, value in metrics.items():
            if key.rpartition("/")[2] == part and value is not None and math.isfinite(value):
                return f"{name} {value:.3f}"
    return "no AP50 in the metrics"


def draw_objects(axis: Axes, boxes: np.ndarray, masks: np.ndarray | None) -> None:
    """Draw objects, each in its own colour: outlines and a light filling, or boxes.

    Args:
        axis: shows the image already.
        boxes: (N, 4), left, top, right, bottom in pixels.
        masks: (N, H, W), bool; None to draw the boxes.
    """
    colours = matplotlib.colormaps["hsv"](np.arange(len(boxes)) * 0.618 % 1)
    if masks is None:
        for (left, top, right, bottom), colour in zip(boxes, colours, strict=True):
            size = right - left, bottom - top
            axis.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=colour))
        return
    fillings = np.zeros((*masks.shape[1:], 4))
    for mask, colour in zip(masks, colours, strict=True):
        if mask.any():
            fillings[mask] = [*colour[:3], 0.35]
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1)
    axis.imshow(fillings)


def ground_truth(info: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return boxes (N, 4) and masks (N, H, W), or None without masks, of an image's annotation."""
    from mmdet.datasets.transforms import LoadAnnotations

    instances = info["instances"]
    boxes = np.array([instance["bbox"] for instance in instances]).reshape(-1, 4)
    if not instances or any("mask" not in instance for instance in instances):
        return boxes, None
    results = {"instances": instances, "ori_shape": (info["height"], info["width"])}
    loaded = LoadAnnotations(with_mask=True, with_bbox=False, with_label=False)(results)
    return boxes, loaded["gt_masks"].masks.astype(bool)


def draw_report(
    dataset: Any, samples: Sequence[Any], threshold: float, title: str, path: Path
) -> None:
    """Write the picture: one row per image; columns image, ground truth, prediction.

    Args:
        dataset: where the samples come from, in its order.
        samples: predictions of the first images.
        threshold: predictions with a lower score (0..1) are left out.
        title: of the picture.
        path: png to write.
    """
    count = len(samples)
    figure = Figure(figsize=(10.5, 3.5 * count + 1), layout="constrained")
    axes = figure.subplots(count, len(COLUMNS), squeeze=False)
    figure.suptitle(title)
    for index, (row, sample) in enumerate(zip(axes, samples, strict=True)):
        info = dataset.get_data_info(index)
        image = decode_to_show(Path(info["img_path"]), Loading())
        found = sample.pred_instances[sample.pred_instances.scores >= threshold].numpy()
        masks = np.asarray(found.masks, dtype=bool) if "masks" in found else None
        true_boxes, true_masks = ground_truth(info)
        notes = (Path(info["img_path"]).name, f"{len(true_boxes)}", f"{len(found.bboxes)}")
        for axis, column, note in zip(row, COLUMNS, notes, strict=True):
            axis.imshow(image)
            axis.set_title(f"{column}: {note}", fontsize=9)
            axis.axis("off")
        draw_objects(row[1], true_boxes, true_masks)
        draw_objects(row[2], found.bboxes, masks)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def report(options: argparse.Namespace) -> tuple[Path, Path]:
    """Write picture and metrics; returns their paths."""
    started = time.perf_counter()
    if options.rows < 1:
        raise UserError(f"--rows {options.rows} shows nothing; give a number >= 1")
    cfg = load_config(options.config)
    check_data(cfg, splits=("test",))
    metrics = read_metrics(options.metrics_from) if options.metrics_from else None
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = load_detector(cfg, options.checkpoint)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = None
    if metrics is None:
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = dataset.metainfo
    samples, evaluated = predict(model, dataset, options.rows, evaluator)
    metrics = evaluated if metrics is None else metrics

    picture = options.out_dir / "report.png"
    title = f"{options.config.stem}, held-out images: {headline(metrics)}"
    draw_report(dataset, samples, options.score_threshold, title, picture)
    seconds = {"report": round(time.perf_counter() - started, 1)}
    if options.train_seconds is not None:
        seconds["train"] = options.train_seconds
    content = {
        "config": str(options.config),
        "checkpoint": str(options.checkpoint),
        "metrics": {
            name: float(value) if math.isfinite(value) else None  # JSON knows no NaN
            for name, value in metrics.items()
            if is_number(value)
        },
        "images": len(dataset),
        "seconds": seconds,
        "versions": {
            "mmvitconv": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
        },
    }
    summary = options.out_dir / "metrics.json"
    summary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return picture, summary


def is_number(value: Any) -> bool:
    """Tell whether a metric is a single number (per-class tables are left out)."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and print where it is; returns the exit code."""
    parser = build_parser()

    def work() -> None:
        picture, summary = report(parser.parse_args(arguments))
        metrics = json.loads(summary.read_text(encoding="utf-8"))["metrics"]
        print(headline(metrics))
        print(f"picture: {picture}")
        print(f"metrics: {summary}")

    return execute(parser, work)


if __name__ == "__main__":
    sys.exit(main())
