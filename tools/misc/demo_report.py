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
from dataclasses import replace
from pathlib import Path
from typing import Any

# Checkpoints are files from strangers; must be set before anything imports torch.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

import mmengine
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask

from mmvitconv import __version__
from mmvitconv.apis.images import decode_to_show
from mmvitconv.apis.inference import Predictor
from mmvitconv.apis.results import Detection
from mmvitconv.cli import execute
from mmvitconv.cli import run as run_command
from mmvitconv.datasets.jsons import read_json
from mmvitconv.datasets.layout import check_data
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.zoo.loading import find_test_dataset


def read_metrics(source: Path) -> dict[str, float]:
    """Read the metrics from a json file, or from the newest one in a work dir of tools/test.py."""
    files = [source] if source.is_file() else []
    if source.is_dir():  # MMEngine writes <time>/<time>.json
        files = [path for path in source.rglob("*.json") if path.stem == path.parent.name]
        files.sort(key=lambda path: path.stat().st_mtime)
    if not files:
        raise UserError(
            f"--metrics-from {source} holds no metrics of a test run; give the --work-dir of "
            "tools/test.py, or leave the option out to evaluate here"
        )
    metrics = read_json(files[-1], "json file with metrics")
    if not isinstance(metrics, Mapping):
        raise UserError(f"{files[-1]} holds a {type(metrics).__name__}, not a table of metrics")
    return dict(metrics)


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the metric for the title: mask AP50 if there, else box AP50."""
    for part, name in (("segm_mAP_50", "mask AP50"), ("bbox_mAP_50", "box AP50")):
        for key, value in metrics.items():
            is_number = isinstance(value, (int, float)) and math.isfinite(value)
            if key.rpartition("/")[2] == part and is_number:
                return f"{name} {value:.3f}"
    return "no AP50 in the metrics"


def ground_truth(info: Mapping[str, Any], prediction: Detection) -> Detection:
    """Return the annotated objects of an image as if predicted with score 1.

    There are no masks where an annotation has none.
    """
    instances = info["instances"]
    codes = []
    for instance in instances:
        code = instance.get("mask")
        if code:
            code = mask.frPyObjects(code, info["height"], info["width"])
            codes.append(mask.merge(code) if isinstance(code, list) else code)
    return replace(
        prediction,
        boxes=np.array([instance["bbox"] for instance in instances]).reshape(-1, 4),
        labels=np.array([instance["bbox_label"] for instance in instances], dtype=int),
        scores=np.ones(len(instances)),
        codes=tuple(codes) if len(codes) == len(instances) > 0 else None,
    )


def draw_report(rows: Sequence[tuple[Detection, Detection]], title: str, path: Path) -> None:
    """Write the picture: one row per image; columns image, ground truth, prediction."""
    figure = Figure(figsize=(10.5, 3.5 * len(rows) + 1), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    figure.suptitle(title)
    for row, (truth, found) in zip(axes, rows, strict=True):
        pictures = {
            f"image: {Path(found.image).name}": decode_to_show(found.content, found.loading),
            f"ground truth: {len(truth.boxes)}": truth.draw(),
            f"prediction: {len(found.boxes)}": found.draw(),
        }
        for axis, (name, picture) in zip(row, pictures.items(), strict=True):
            axis.imshow(picture)
            axis.set_title(name, fontsize=9)
            axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def report(options: argparse.Namespace) -> int:
    """Write picture and metrics, and print where they are; returns the exit code."""
    started = time.perf_counter()
    if options.rows < 1:
        raise UserError(f"--rows {options.rows} shows nothing; give a number >= 1")
    cfg = load_config(options.config)
    check_data(cfg, splits=("test",))
    metrics = read_metrics(options.metrics_from) if options.metrics_from else None
    predictor = Predictor(cfg, options.checkpoint)
    if metrics is None:
        work_dir = options.out_dir / "test"
        arguments = (str(options.config), str(options.checkpoint), "--work-dir", str(work_dir))
        code = run_command("test", *arguments)
        if code:
            return code
        metrics = read_metrics(work_dir)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    dataset = DATASETS.build(find_test_dataset(cfg))
    infos = [dataset.get_data_info(index) for index in range(min(options.rows, len(dataset)))]
    paths = [info["img_path"] for info in infos]
    found = predictor(paths, batch_size=1, score_threshold=options.score_threshold)
    rows = [(ground_truth(*pair), pair[1]) for pair in zip(infos, found, strict=True)]
    picture = options.out_dir / "report.png"
    draw_report(rows, f"{options.config.stem}, held-out images: {headline(metrics)}", picture)
    seconds = {"report": round(time.perf_counter() - started, 1), "train": options.train_seconds}
    content = {
        "config": str(options.config),
        "checkpoint": str(options.checkpoint),
        "metrics": {
            name: float(value) if math.isfinite(value) else None  # JSON knows no NaN
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        },
        "images": len(dataset),
        "seconds": {name: value for name, value in seconds.items() if value is not None},
        "versions": {
            "mmvitconv": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
        },
    }
    summary = options.out_dir / "metrics.json"
    summary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"{headline(content['metrics'])}\npicture: {picture}\nmetrics: {summary}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "demo_report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", type=Path, help="config of a detector, or the name of a shipped one")
    add("checkpoint", help="its trained weights, a file or an address")
    add("--out-dir", type=Path, required=True, help="where to write")
    add("--metrics-from", type=Path, help="work dir of tools/test.py, or a json file with metrics")
    add("--rows", type=int, default=4, help="images shown (default: %(default)s)")
    text = "predictions below it are not drawn (default: %(default)s)"
    add("--score-threshold", type=float, default=0.5, help=text)
    add("--train-seconds", type=float, help="how long training took, for metrics.json")
    return execute(parser, lambda: report(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
