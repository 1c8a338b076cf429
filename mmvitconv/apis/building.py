"""From a config and a checkpoint to what predicts: device, pipeline, model and names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, TRANSFORMS

from mmvitconv.apis.images import Loading
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


def build_pipeline(
    steps: Iterable[Mapping[str, Any]], channels: int = 3
) -> tuple[Loading, Compose]:
    """Build a test pipeline for images without annotations.

    Args:
        steps: The pipeline in the config.
        channels: Of the images, where the data set hands out arrays and so no step loads them;
            three are red, green and blue.

    Returns:
        How images are loaded, and what comes after it.

    Raises:
        UserError: When the pipeline loads images, but not at first.
    """
    steps = [dict(step) for step in steps if "Annotations" not in type_name(step)]
    loads = [type_name(step).startswith("LoadImage") for step in steps]
    if not steps or (any(loads) and not loads[0]):
        raise UserError(
            "the test pipeline of the config must begin with LoadImageFromFile, it has "
            f"{', '.join(map(type_name, steps)) or 'no steps'}"
        )
    if not loads[0]:
        color_type = "grayscale" if channels == 1 else "color"
        return Loading(color_type, channel_order="rgb"), Compose(steps)
    step = TRANSFORMS.build(steps[0])
    loading = Loading(
        getattr(step, "color_type", "color"),
        getattr(step, "imdecode_backend", "cv2"),
        to_float32=getattr(step, "to_float32", False),
    )
    return loading, Compose(steps[1:])


def model_settings(cfg: Config) -> ConfigDict:
    """Return the settings that a config's model is built from.

    Args:
        cfg: The config; it stays as it is.

    Returns:
        A copy of ``cfg.model`` that reads no pretrained weights, with the config's
        ``data_preprocessor`` in it, as MMEngine's runner puts it there.
    """
    settings = _without_pretrained(cfg.model)
    if cfg.get("data_preprocessor"):
        settings.setdefault("data_preprocessor", deepcopy(cfg.data_preprocessor))
    return settings


def _without_pretrained(node: Any) -> Any:
    """Copy settings; what would read weights from a file or address is None or left out."""
    if isinstance(node, Mapping):
        if type_name(node) in ("Pretrained", "PretrainedInit"):
            return None
        return ConfigDict(
            {
                key: None if key == "pretrained" else _without_pretrained(value)
                for key, value in node.items()
            }
        )
    if isinstance(node, (list, tuple)):
        items = [(item, _without_pretrained(item)) for item in node]
        kept = [copy for item, copy in items if item is None or copy is not None]
        return type(node)(kept) if kept or not node else None
    return deepcopy(node)


def build_model(
    cfg: Config,
    content: dict[str, Any] | None,
    source: str,
    seed: int = 0,
    init_weights: bool = True,
) -> torch.nn.Module:
    """Build the model of a config with all of its weights.

    Args:
        cfg: The config; it stays as it is.
        content: The checkpoint; None for random weights.
        source: Where the checkpoint is, for messages.
        seed: Of random weights.
        init_weights: Draw random weights as ``init_cfg`` says; else they stay as the layers draw
            them.

    Returns:
        The model, on the CPU.

    Raises:
        UserError: When the settings make no model.
        CheckpointError: When keys or shapes do not match.
    """
    # The model is built on the CPU: the generators of GPUs are neither seeded nor read.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = revert_sync_batchnorm(MODELS.build(model_settings(cfg)))
        except (KeyError, TypeError, ValueError) as error:  # what registries and models raise
            raise UserError(f"the model of this config cannot be built: {error}") from error
        if content is None:
            if init_weights:
                with quiet_logger():  # it would list every parameter
                    model.init_weights()
            return model
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
    given = {"classes": dataset["classes"]} if dataset.get("classes") else {}  # mmpretrain's way
    configured = {
        **(getattr(_dataset_class(dataset.get("type")), "METAINFO", None) or {}),
        **given,
        **(dataset.get("metainfo") or {}),
    }
    if isinstance(configured.get("classes"), str):
        configured["classes"] = _read_lines(configured["classes"])
    for names in (trained, configured):
        classes = names.get("classes") if isinstance(names, Mapping) else None
        if isinstance(classes, (list, tuple)) and classes:
            palette = names.get("palette")
            return tuple(map(str, classes)), _colours(palette, len(classes))
    return (), ()


def _dataset_class(kind: Any) -> Any:
    """Return the class of a data set's type in the current scope; None for an unknown one."""
    if not isinstance(kind, str):
        return kind
    with quiet_logger(), DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _read_lines(path: str) -> list[str]:
    """Return the lines of a text file; none where there is no such file."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


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
