"""From a name, a config or a file, and its weights, to a model: the only way there is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from mmvitconv.datasets.layout import leaf_datasets, type_name
from mmvitconv.engine.configuration import apply_options, load_config
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.engine.tasks import TASKS
from mmvitconv.errors import CheckpointError, UserError, printable
from mmvitconv.resources import is_config
from mmvitconv.weights import adapt_checkpoint, check_match, load_backbone, load_file
from mmvitconv.weights.addresses import address_of, title_of
from mmvitconv.weights.index import find_weights
from mmvitconv.zoo.archs import check_timm_name, list_families, match_arch

__all__ = [
    "LoadedModel",
    "choose_device",
    "default_shape",
    "find_test_dataset",
    "load_model",
    "model_settings",
    "read_names",
]

Colour = tuple[int, int, int]

EXTRAS = {"mmpretrain": "cls", "mmdet": "det", "mmseg": "seg"}
TIMM = "timm:"
INDEX = "mmvitconv://"
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# Switches with which classifiers turn the last feature map into a vector.
_MAPS = {"out_type": "featmap", "gap_before_final_norm": False}
# What papers report: the short side 800 and a usual width, not the pipeline's bound of 1333.
_DETECTION_SHAPE = (800, 1280)
_DETECTION_SCALE = (1333, 800)
_SHAPES: Mapping[str | None, tuple[int, int]] = {"mmdet": _DETECTION_SHAPE, "mmseg": (512, 512)}
_SHAPE = (224, 224)  # of classifiers and bare backbones


@dataclass
class LoadedModel:
    """A model in evaluation mode, and what has to be known to use it.

    Attributes:
        module: The classifier, detector, segmentor or backbone.
        name: ``'FCViT:s12'``, ``'timm:resnet50'``, or the config's name without suffix.
        weights: Where the weights come from, for titles: ``'weights of best.pth'``.
        config: The config with ``cfg_options`` applied; None without one.
        task: ``'classification'``, ``'detection'`` or ``'segmentation'``; None without a config.
        shape: Height and width of usual images in pixels.
        in_channels: Channels of the input.
        mean: Subtracted from pixels of 0 to 255, one number for each channel.
        std: What the difference is divided by.
        is_rgb: Whether the network gets red first.
        classes: Names of the classes, from the checkpoint, else from the config; may be empty.
        palette: Colours of the classes, RGB; may be empty.
        notes: What the user should know, one sentence each.
    """

    module: nn.Module
    name: str
    weights: str
    config: Config | None = None
    task: str | None = None
    shape: tuple[int, int] = _SHAPE
    in_channels: int = 3
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]
    is_rgb: bool = True
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    notes: list[str] = field(default_factory=list)


def load_model(
    source: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    *,
    part: Literal["model", "backbone"] = "model",
    cfg_options: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    init_weights: bool = True,
    shape: Sequence[int] | None = None,
) -> LoadedModel:
    """Build a model and load its weights, all of them or none.

    Args:
        source: A config (an object, a file, or the name of a shipped one, of mmdet, mmseg or
            mmpretrain style), an architecture in any spelling (``'fcvit_s12'``, ``'FCViT:s12'``),
            whose backbone is built, the name of published weights (``'mmvitconv://fcvit_s12'``),
            which the backbone of their architecture loads, or ``'timm:NAME'``.
        checkpoint: Weights in our layout or an original one: a file, or an address that
            :func:`mmvitconv.weights.load_file` takes, ``'mmvitconv://fcvit_s12'``; None for random
            ones. The backbone alone takes its weights from the file of a whole model, too.
        part: Of a config, ``'model'`` or its ``'backbone'`` alone with feature maps as outputs,
            whose config may be of any scope. Of timm, ``'backbone'`` gives the maps of all stages.
        cfg_options: Changes of the config, dotted keys and their values.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None takes a GPU where there is one.
            ``'meta'`` builds without memory and values, for counting.
        seed: Of random weights. No global generator is changed.
        init_weights: Draw random weights as the config's ``init_cfg`` says (which may leave the
            last layer near zero); else they stay as layers draw them.
        shape: Height and width of the images in pixels; None for the model's usual ones.

    Returns:
        The model and its facts.

    Raises:
        UserError: There is no such model or device, or it cannot be built.
        CheckpointError: The file is unsafe or damaged, or does not belong to the model.

    Examples:
        >>> load_model("fcvit_s12", device="cpu").module.out_channels
        (64, 128, 320, 512)
        >>> load_model("maskrcnn_fcvit_s12_coco", part="backbone", device="meta").shape
        (800, 1280)
    """
    published = address_of(source) if isinstance(source, str) else ""
    if published.startswith(INDEX):
        entry = find_weights(published.removeprefix(INDEX))
        source, checkpoint = entry.architecture, checkpoint or entry.uri
    is_meta = str(device) == "meta"
    if is_meta and checkpoint is not None:
        raise UserError("the device 'meta' holds no weights; leave out the checkpoint")
    if checkpoint is not None:
        checkpoint = address_of(checkpoint) or checkpoint
    target = torch.device("meta") if is_meta else choose_device(device)
    is_drawn = init_weights and not is_meta and checkpoint is None
    builder = _Builder(checkpoint, part, seed, is_drawn, is_meta, shape)
    if isinstance(source, Config):
        loaded = builder.from_config(deepcopy(source), cfg_options)
    elif str(source).startswith(TIMM):
        loaded = builder.from_timm(str(source))
    elif is_config(str(source)):
        loaded = builder.from_config(load_config(source), cfg_options)
    elif cfg_options:
        raise UserError(f"--cfg-options change a config, but {str(source)!r} is an architecture")
    else:
        loaded = builder.from_arch(str(source))
    if shape is not None:
        loaded.shape = tuple(shape)
    loaded.module.to(target)
    loaded.module.eval()  # by itself: many of OpenMMLab's backbones return nothing here
    return loaded


@dataclass(frozen=True)
class _Builder:
    """The steps of :func:`load_model`, with its arguments."""

    checkpoint: str | os.PathLike | None
    part: str
    seed: int
    init_weights: bool
    is_meta: bool
    shape: Sequence[int] | None

    @property
    def weights(self) -> str:
        if self.checkpoint is None:
            return f"random weights, seed {self.seed}"
        return f"weights of {title_of(self.checkpoint)}"

    def from_arch(self, name: str) -> LoadedModel:
        """Build the backbone of an architecture."""
        family, arch = match_arch(name)
        backbone = self.build(lambda: list_families()[family](arch))
        if self.checkpoint is not None:
            load_backbone(backbone, str(self.checkpoint))
        channels = backbone.in_channels
        return LoadedModel(backbone, f"{family}:{arch}", self.weights, in_channels=channels)

    def from_timm(self, name: str) -> LoadedModel:
        """Build one of timm's models, which may fix the size of its images."""
        short = name.removeprefix(TIMM)
        check_timm_name(short)
        import timm

        options = {"features_only": True} if self.part == "backbone" else {}
        size = {} if self.shape is None else {"img_size": tuple(self.shape)}
        try:
            model = self.build(lambda: timm.create_model(short, **options, **size))
        except TypeError:  # it takes images of any size, and no argument for it
            model = self.build(lambda: timm.create_model(short, **options))
        if self.checkpoint is not None:
            self.load_all(model, load_file(self.checkpoint, mmap=True), name)
        data = timm.data.resolve_model_data_config(model)
        channels, *shape = data["input_size"]
        mean, std = (tuple(255 * value for value in data[key]) for key in ("mean", "std"))
        facts = {"shape": tuple(shape), "in_channels": channels, "mean": mean, "std": std}
        return LoadedModel(model, name, self.weights, **facts)

    def from_config(self, cfg: Config, options: Mapping[str, Any] | None) -> LoadedModel:
        """Build the model of a config, or its backbone."""
        name = Path(cfg.filename).stem if cfg.filename else "this config"
        notes = apply_options(cfg, dict(options or {}))
        scope = cfg.get("default_scope")
        settings = self.settings(cfg, name, scope)
        content = None
        if self.checkpoint is not None and self.part == "model":
            content = load_file(self.checkpoint, mmap=True)
        if self.part == "model":
            require_package(scope)
        with DefaultScope.overwrite_default_scope(scope):
            try:
                model = self.build(lambda: MODELS.build(settings), self.init_weights)
            except (KeyError, TypeError, ValueError) as error:  # what registries and models raise
                raise UserError(f"the {self.part} of {name} cannot be built: {error}") from error
            classes, palette = read_names(content, find_test_dataset(cfg))
        if content is not None:
            self.load_all(model, content, "this config's model")
        elif self.checkpoint is not None:
            load_backbone(model, str(self.checkpoint))
        mean, std, is_rgb = input_norm(cfg)
        channels = (cfg.model.get("backbone") or {}).get("in_channels")
        return LoadedModel(
            model,
            name if cfg.filename else type_name(cfg.model),
            self.weights,
            cfg,
            TASKS.get(scope),
            default_shape(cfg),
            channels if isinstance(channels, int) else len(mean),
            mean,
            std,
            is_rgb,
            classes,
            palette,
            notes,
        )

    def settings(self, cfg: Config, name: str, scope: str | None) -> ConfigDict:
        """Return what is built, without what would read weights from a file."""
        model = cfg.get("model") or {}
        if self.part == "backbone":
            if not model.get("backbone"):
                raise UserError(f"the config {name} has no model.backbone; give one with it")
            settings = _without_pretrained(model["backbone"])
            settings.update({key: value for key, value in _MAPS.items() if key in settings})
            return settings
        if not model or scope not in TASKS:
            raise UserError(
                f"the config {name} has default_scope={scope!r} and {'a' if model else 'no'} "
                f"model; give one with a model and default_scope one of {', '.join(sorted(TASKS))}"
            )
        return model_settings(cfg)

    def build(self, make: Callable[[], nn.Module], init_weights: bool = False) -> nn.Module:
        """Build on the CPU (or nowhere); generators of random numbers stay as they are."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            try:
                with torch.device("meta") if self.is_meta else nullcontext():
                    model = revert_sync_batchnorm(make())
            except (RuntimeError, NotImplementedError):
                if not self.is_meta:
                    raise
                # Some constructors look at values: mmpretrain's make their stochastic depth so.
                model = revert_sync_batchnorm(make()).to("meta")
            if init_weights and isinstance(model, BaseModule):
                with quiet_logger():  # it would list every parameter
                    model.init_weights()
        return model

    def load_all(self, model: nn.Module, content: dict[str, Any], name: str) -> None:
        """Load all weights of a model."""
        source = str(self.checkpoint)
        try:
            state_dict = adapt_checkpoint(content, model)["state_dict"]
            check_match(state_dict, model, source=source)
        except CheckpointError as error:
            raise CheckpointError(
                f"{source} does not hold the weights of {name}: {error}"
            ) from error
        model.load_state_dict(state_dict)


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


def find_test_dataset(cfg: Config) -> Mapping[str, Any]:
    """Return the test data set of a config without its wrappers; empty where there is none.

    Args:
        cfg: The config.
    """
    datasets = leaf_datasets(cfg.get("test_dataloader"), "test_dataloader")
    return next((dataset for _, dataset in datasets), {})


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
            return tuple(printable(name) for name in classes), _colours(palette, len(classes))
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
        file = Path(path).expanduser()  # a pipe may have no end
        return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
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


def default_shape(cfg: Config) -> tuple[int, int]:
    """Return height and width of the images of which papers report the costs of a config's model.

    Args:
        cfg: A config with a model.

    Returns:
        The test size of the config, else 800 x 1280 (detection), 512 x 512 (segmentation) or
        224 x 224.
    """
    scope = cfg.get("default_scope")
    if scope == "mmseg":
        size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
        return tuple(size) if size else _SHAPES[scope]
    for step in reversed(_test_pipeline(cfg)):
        kind = str(step.get("type")).rpartition(".")[2]
        if scope == "mmpretrain" and kind in ("CenterCrop", "Resize"):
            size = step.get("crop_size", step.get("scale"))
            if size is not None:
                return (size, size) if isinstance(size, int) else (size[-1], size[0])
        if scope == "mmdet" and kind in ("Resize", "FixScaleResize") and step.get("scale"):
            scale = tuple(step["scale"])
            return _DETECTION_SHAPE if scale == _DETECTION_SCALE else (min(scale), max(scale))
    return _SHAPES.get(scope, _SHAPE)


def _test_pipeline(cfg: Config) -> list[Mapping[str, Any]]:
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset and "dataset" in dataset:  # wrappers: RepeatDataset
        dataset = dataset["dataset"]
    return list(dataset.get("pipeline") or cfg.get("test_pipeline") or [])


def input_norm(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Return how the preprocessor of a config normalises images.

    Args:
        cfg: A config with a model.

    Returns:
        Mean and standard deviation (0 and 1 where nothing is said), and whether the network gets
        red first.
    """
    settings: Mapping[str, Any] = {
        **(cfg.get("data_preprocessor") or {}),
        **(cfg.model.get("data_preprocessor") or {}),
    }
    mean, std = (tuple(settings.get(key) or default) for key, default in
                 (("mean", (0.0,) * 3), ("std", (1.0,) * 3)))  # fmt: skip
    return mean, std, bool(settings.get("to_rgb") or settings.get("bgr_to_rgb"))
