"""What differs between detection, segmentation and classification when a model is tested.

The tasks are told apart by ``default_scope``. Functions that return nothing change the config.
"""

from __future__ import annotations

import os
from copy import deepcopy
from inspect import isclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmvitconv.engine.configuration import find_class
from mmvitconv.errors import UserError

TASKS = {"mmpretrain": "classification", "mmdet": "detection", "mmseg": "segmentation"}
"""Task by the ``default_scope`` of its configs; detection includes instance segmentation."""
DRAWING = {
    "mmdet": ("mmdet.DetVisualizationHook", "mmdet.DetLocalVisualizer"),
    "mmseg": ("mmseg.SegVisualizationHook", "mmseg.SegLocalVisualizer"),
    "mmpretrain": ("mmpretrain.VisualizationHook", "mmpretrain.UniversalVisualizer"),
}
"""Hook and visualizer that draw a task's predictions."""


def task_scope(cfg: Config) -> str:
    """Return the package whose task the config describes.

    Args:
        cfg: A config with ``default_scope``.

    Returns:
        ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.

    Raises:
        UserError: For any other ``default_scope``.
    """
    scope = cfg.get("default_scope")
    if scope not in DRAWING:
        raise UserError(
            f"default_scope of the config must be one of {', '.join(DRAWING)}, got {scope!r}"
        )
    return scope


def enable_pictures(cfg: Config, show_dir: str) -> None:
    """Make the test write a picture of every prediction.

    Args:
        cfg: The config.
        show_dir: Directory of the pictures, created when missing.
    """
    scope = task_scope(cfg)
    directory = os.path.realpath(show_dir)
    hook_type, visualizer_type = DRAWING[scope]
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    hook = hooks.get("visualization") or ConfigDict(type=hook_type)
    hooks["visualization"] = hook
    if cfg.get("visualizer") is None:
        cfg.visualizer = ConfigDict(type=visualizer_type, name="visualizer")
    if not cfg.visualizer.get("vis_backends"):
        cfg.visualizer["vis_backends"] = [ConfigDict(type="LocalVisBackend")]
    if scope == "mmpretrain":
        hook.update(enable=True, out_dir=directory, interval=1)
    elif scope == "mmdet":
        # an absolute path replaces the work directory that mmdet puts in front
        hook.update(draw=True, test_out_dir=directory)
    else:
        hook.update(draw=True, interval=1)
        cfg.visualizer["save_dir"] = directory


def dump_predictions(cfg: Config, out: str) -> ConfigDict:
    """Describe the evaluator that writes the raw predictions.

    Args:
        cfg: The config.
        out: Path ending with ``.pkl`` or ``.pickle``.

    Returns:
        Config of a metric, to be added to the evaluator.
    """
    # mmdet's own compresses masks
    kind = "mmdet.DumpDetResults" if task_scope(cfg) == "mmdet" else "DumpResults"
    return ConfigDict(type=kind, out_file_path=str(Path(out)))


def enable_test_time_augmentation(cfg: Config) -> None:
    """Average the predictions over augmented copies of every image.

    ``tta_model`` and ``tta_pipeline`` of the config decide how; without them the image and its
    mirror image are merged.

    Args:
        cfg: The config.

    Raises:
        UserError: For a model with instance masks, which mmdet cannot merge, or a test data set
            without a pipeline.
    """
    scope = task_scope(cfg)
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    if not dataset.get("pipeline"):
        raise UserError("--tta needs test_dataloader.dataset.pipeline in the config")
    if scope == "mmdet" and "mask_head" in (cfg.model.get("roi_head") or {}):
        raise UserError(
            "--tta cannot merge instance masks (mmdet merges boxes only): test without --tta, or "
            "use a detector without a mask head"
        )
    if cfg.get("tta_model") is None:
        cfg.tta_model = {
            "mmdet": ConfigDict(  # mmdet registers it with MMEngine, without a scope
                type="DetTTAModel",
                tta_cfg=ConfigDict(nms=ConfigDict(type="nms", iou_threshold=0.5), max_per_img=100),
            ),
            "mmseg": ConfigDict(type="mmseg.SegTTAModel"),
            "mmpretrain": ConfigDict(type="mmpretrain.AverageClsScoreTTA"),
        }[scope]
    if cfg.get("tta_pipeline") is None:
        cfg.tta_pipeline = _mirrored(dataset["pipeline"], scope)
    dataset["pipeline"] = deepcopy(cfg.tta_pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _mirrored(pipeline: list[dict], scope: str) -> list[dict]:
    """Return a test pipeline that gives every image plain and mirrored."""
    from mmcv.transforms import LoadAnnotations

    kinds = [find_class(step["type"], scope) for step in pipeline]
    loads = [isclass(kind) and issubclass(kind, LoadAnnotations) for kind in kinds]
    # Annotations are loaded after the image is mirrored: the ground truth must stay as it is.
    first = loads.index(True) if True in loads else -1
    pack = deepcopy(pipeline[-1])
    if scope == "mmdet" and "meta_keys" in pack:
        pack["meta_keys"] = tuple(dict.fromkeys((*pack["meta_keys"], "flip", "flip_direction")))
    tail = [*deepcopy(pipeline[first:-1]), pack] if first != -1 else [pack]
    flips = [
        ConfigDict(type="RandomFlip", prob=probability, direction="horizontal")
        for probability in (0.0, 1.0)
    ]
    return [
        *deepcopy(pipeline[:first]),
        ConfigDict(type="TestTimeAug", transforms=[flips, *([step] for step in tail)]),
    ]
