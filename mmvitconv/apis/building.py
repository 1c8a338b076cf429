"""From a config and a checkpoint to what predicts: device, pipeline, model and names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, TRANSFORMS

from mmvitconv.apis.results import Colour
from mmvitconv.datasets.layout import type_name
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.weights import adapt_checkpoint, check_match

EXTRAS = {"mmpretrain": "cls", "mmdet": "det", "mmseg": "seg"}


def choose_device(device: str | torch.device | None) -> torch.device:
    """Turn a user's wish into a device that exists.

    Args:
        device: As of :class:`Predictor`.

    Returns:
        The device.

    Raises:
        UserError: When the name is no device, or this machine has none like it.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        there = f"cpu and {count} GPU(s), cuda:0 to cuda:{count - 1}" if count else "cpu only"
        raise UserError(
            f"the device {str(device)!r} cannot be used; this machine has {there}"
        ) from error
    return chosen


def build_pipeline(steps: Iterable[Mapping[str, Any]]) -> tuple[Any, Compose]:
    """Build a test pipeline for images without annotations.

    Args:
        steps: The pipeline in the config.

    Returns:
        The step that loads images, and what comes after it.

    Raises:
        UserError: When the pipeline does not begin with loading an image.
    """
    steps = [dict(step) for step in steps if "Annotations" not in type_name(step)]
    if not steps or not type_name(steps[0]).startswith("LoadImage"):
        raise UserError(
            "the test pipeline of the config must begin with LoadImageFromFile, it has "
            f"{', '.join(map(type_name, steps)) or 'no steps'}"
        )
    return TRANSFORMS.build(steps[0]), Compose(steps[1:])


def build_model(cfg: Config, content: dict[str, Any] | None, source: str) -> torch.nn.Module:
    """Build the model of a config with all of its weights.

    Args:
        cfg: The config.
        content: The checkpoint; None for random weights, the same each time.
        source: Where the checkpoint is, for messages.

    Returns:
        The model, on the CPU.

    Raises:
        CheckpointError: When keys or shapes do not match.
    """
    # All weights come from the checkpoint or are random: no pretrained backbone is read.
    for part in (cfg.model, cfg.model.get("backbone") or {}):
        if (part.get("init_cfg") or {}).get("type") == "Pretrained":
            part["init_cfg"] = None
    if content is None:
        with torch.random.fork_rng(devices=[]), quiet_logger():  # it would list every parameter
            torch.manual_seed(0)
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
            model.init_weights()
        return model
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        state_dict = adapt_checkpoint(content, model)["state_dict"]
        check_match(state_dict, model, source=source)
    except CheckpointError as error:
        raise CheckpointError(
            f"{source} does not hold the weights of this config's model: {error}"
        ) from error
    model.load_state_dict(state_dict)
    return model


def read_names(
    content: Mapping[str, Any] | None, dataset: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Find the names of the classes and their colours.

    Args:
        content: The checkpoint, which may say on what it was trained.
        dataset: The test data set in the config; it need not be there.

    Returns:
        Names and colours; empty where nobody says.
    """
    meta = (content or {}).get("meta")
    trained = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    kind = DATASETS.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
    configured = {**(getattr(kind, "METAINFO", None) or {}), **(dataset.get("metainfo") or {})}
    for names in (trained, configured):
        classes = names.get("classes") if isinstance(names, Mapping) else None
        if isinstance(classes, (list, tuple)) and classes:
            palette = names.get("palette")
            return tuple(map(str, classes)), _colours(palette, len(classes))
    return (), ()


def _colours(palette: Any, count: int) -> tuple[Colour, ...]:
    """Return a palette if it is one for so many classes, else nothing."""
    try:
        colours = np.asarray(palette, dtype=np.int64)
    except (TypeError, ValueError):
        return ()
    if colours.shape != (count, 3) or colours.min() < 0 or colours.max() > 255:
        return ()
    return tuple((red, green, blue) for red, green, blue in colours.tolist())


def require_package(scope: str) -> None:
    """Raise a UserError when the package of a task is not installed.

    Args:
        scope: Its name, ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``.
    """
    try:
        import_module(scope)
    except ModuleNotFoundError as error:
        if error.name != scope:
            raise
        raise UserError(
            f"this config needs {scope}; run: pip install 'mmvitconv[{EXTRAS[scope]}]'"
        ) from error
