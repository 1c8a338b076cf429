"""Published weights evaluated on the user's copy of a data set, beside the published figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config

from mmvitconv.datasets.layout import as_items, check_data, find_missing, leaf_datasets
from mmvitconv.engine import runner as engine
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.weights.downloads import fetch
from mmvitconv.weights.index import Weights

__all__ = ["Figure", "has_data", "to_markdown", "verify"]

# Published name: what the evaluators call it, and how much of a percent that is.
METRICS = {
    "Top 1 Accuracy": ("accuracy/top1", 1.0),
    "box AP": ("coco/bbox_mAP", 100.0),
    "mask AP": ("coco/segm_mAP", 100.0),
    "mIoU": ("mIoU", 1.0),
}


@dataclass(frozen=True)
class Figure:
    """One published figure and what was measured.

    Attributes:
        name: Of the weights.
        metric: ``'Top 1 Accuracy'``, ``'box AP'``, ``'mask AP'`` or ``'mIoU'``.
        published: The authors' figure in percent.
        measured: On the user's data, in percent.
        source: Where the published figure stands.
    """

    name: str
    metric: str
    published: float
    measured: float
    source: str

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{self.name}: {self.metric} published {self.published}, measured "
            f"{self.measured:.2f}, difference {self.measured - self.published:+.2f}"
        )


def has_data(entry: Weights, roots: Sequence[str]) -> bool:
    """Return whether one of the folders holds the data that weights are evaluated on.

    Args:
        entry: Published weights.
        roots: Folders of data sets; without any, those that the configs name.
    """
    return entry.loads and any(not find_missing(cfg, ("test",)) for cfg in _configs(entry, roots))


def verify(entry: Weights, roots: Sequence[str]) -> list[Figure]:
    """Evaluate published weights with their own input convention.

    Args:
        entry: Published weights; they are fetched unless this machine has them.
        roots: Folders of data sets, of which the first that has what is needed is taken; without
            any, the folder that the config names.

    Returns:
        One figure for each that is published.

    Raises:
        UserError: The weights are a link only, or there are no data.
        CheckpointError: The weights cannot be had.
    """
    if not entry.loads:
        raise UserError(
            f"{entry.name} cannot be evaluated: it is a link only, how its file names the weights "
            "is not known here"
        )
    configs = list(_configs(entry, roots))
    cfg = next((cfg for cfg in configs if not find_missing(cfg, ("test",))), configs[0])
    check_data(cfg, ("test",))
    fetch(entry.uri)
    with TemporaryDirectory(prefix="mmvitconv-verify-") as folder:
        metrics = _evaluate(cfg, entry.uri, folder)
    return [
        Figure(entry.name, metric, value, factor * metrics[key], entry.published_in)
        for metric, value in entry.published.items()
        for key, factor in [METRICS[metric]]
    ]


def to_markdown(figures: Iterable[Figure]) -> str:
    """Return a table in the form of the documentation."""
    rows = ["| weights | metric | published | measured | difference |", "|---|---|---:|---:|---:|"]
    rows += [
        f"| `{figure.name}` | {figure.metric} | {figure.published} | {figure.measured:.2f} "
        f"| {figure.measured - figure.published:+.2f} |"
        for figure in figures
    ]
    return "\n".join(rows)


def _configs(entry: Weights, roots: Sequence[str]) -> Iterable[Config]:
    """Yield the config of the weights for each folder, or as it is."""
    for root in roots or [None]:
        cfg = load_config(entry.config)
        cfg.launcher = "none"
        if root is not None:
            _move_data(cfg, root)
        yield cfg


def _move_data(cfg: Config, root: str) -> None:
    """Let the test of a config read its data from another folder."""
    olds = set()
    for _, dataset in leaf_datasets(cfg.test_dataloader, "test_dataloader"):
        olds.add(str(dataset.get("data_root") or ""))
        dataset["data_root"] = root
    for _, evaluator in as_items(cfg.test_evaluator, "test_evaluator"):
        path = evaluator.get("ann_file")
        for old in filter(None, olds):
            if isinstance(path, str) and Path(path).is_relative_to(old):
                evaluator["ann_file"] = os.path.join(root, Path(path).relative_to(old))


def _evaluate(cfg: Config, checkpoint: str, work_dir: str) -> Mapping[str, float]:
    cfg.work_dir = work_dir
    cfg.load_from = checkpoint
    cfg.resume = False
    cfg.experiment_name = Path(work_dir).name  # a logger for each run, which all end in one process
    cfg.visualizer = None  # that of a config has one name for all runs
    runner = engine.build(cfg, lambda: None, ["mmvitconv.FoldHook"])
    return runner.test()
