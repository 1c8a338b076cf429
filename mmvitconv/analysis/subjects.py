"""The model that a picture is about: by architecture, by config or from timm, with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as ENGINE_MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.resources import is_config
from mmvitconv.weights import check_match, load_backbone, load_file
from mmvitconv.zoo.archs import build_arch, check_timm_name
from mmvitconv.zoo.loading import default_shape

__all__ = ["Subject", "even_layer_scales", "input_norm", "load_subject"]

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_TIMM = "timm:"
# Switches with which classifiers make a vector of the last map.
_MAPS = {"out_type": "featmap", "gap_before_final_norm": False}


@dataclass(frozen=True)
class Subject:
    """A backbone with its weights, ready to look at.

    Args:
        name: What the user called it.
        model: Backbone, or a whole model of timm; in evaluation mode.
        weights: Where its weights come from, for titles.
        shape: Height and width of its usual images.
        mean: Mean of its input, one number for each channel.
        std: Standard deviation of its input.
        is_rgb: Whether its input has red first.
    """

    name: str
    model: nn.Module
    weights: str
    shape: tuple[int, int]
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]
    is_rgb: bool = True

    @property
    def title(self) -> str:
        """Name and weights in one line."""
        return f"{self.name} ({self.weights})"

    @property
    def in_channels(self) -> int:
        """Channels of its input."""
        channels = getattr(self.model, "in_channels", getattr(self.model, "in_chans", None))
        return channels if isinstance(channels, int) else len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    def to_input(self, pixels: np.ndarray) -> Tensor:
        """Normalise an image as the model wants it.

        Args:
            pixels: RGB, shape (H, W, 3), 0 to 255.

        Returns:
            Shape (1, in_channels, H, W).

        Raises:
            UserError: The model takes neither one channel nor three.
        """
        values = pixels.astype(np.float32)
        if self.in_channels == 1:
            values = values @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
        elif self.in_channels != 3:
            raise UserError(
                f"{self.name} takes {self.in_channels} channels, so no image can be shown to it; "
                "give a model for 3 channels or 1"
            )
        elif not self.is_rgb:
            values = values[:, :, ::-1]
        mean, std = (
            np.float32(part if len(part) in (1, self.in_channels) else part[:1])
            for part in (self.mean, self.std)
        )
        values = np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))
        return torch.from_numpy(values).unsqueeze(0).to(self.device)


def load_subject(
    name: str,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    device: str | torch.device | None = None,
) -> Subject:
    """Build a model and load its weights.

    Args:
        name: An architecture as ``mmvitconv list`` shows it (``'FCViT:tiny'``), ``'timm:NAME'`` for
            one of timm's models, or a config.
        checkpoint: File with its weights; None for random ones. Of ours and of configs the
            backbone's weights must match, of timm's models all.
        seed: Of random weights.
        shape: Height and width of the images; None for the model's usual ones.
        device: None for a GPU where there is one.

    Returns:
        The model in evaluation mode.

    Raises:
        UserError: There is no such model, or it cannot be built.
        CheckpointError: The file is unsafe or damaged, or does not belong to the model.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    facts: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name.startswith(_TIMM):
            model, facts = _build_timm(name, shape)
        elif is_config(name):
            model, facts = _build_backbone(load_config(name), name)
            name = Path(name).stem
        else:
            model = build_arch(name)
    weights = f"random weights, seed {seed}"
    if checkpoint is not None:
        _load(model, str(checkpoint), is_timm=name.startswith(_TIMM))
        weights = f"weights of {Path(checkpoint).name}"
    if shape is not None:
        facts["shape"] = tuple(shape)
    facts = {"shape": (224, 224), **facts}
    model.to(device)
    model.eval()  # by itself: many of OpenMMLab's backbones return nothing here
    return Subject(name, model, weights, **facts)


def _build_timm(name: str, shape: Sequence[int] | None) -> tuple[nn.Module, dict[str, Any]]:
    short = name.removeprefix(_TIMM)
    check_timm_name(short)
    import timm

    try:  # Transformers fix the size of their images
        model = timm.create_model(short, **({} if shape is None else {"img_size": tuple(shape)}))
    except TypeError:
        model = timm.create_model(short)
    data = timm.data.resolve_model_data_config(model)
    mean, std = (tuple(255 * value for value in data[key]) for key in ("mean", "std"))
    return model, {"shape": tuple(data["input_size"][1:]), "mean": mean, "std": std}


def _build_backbone(cfg: Config, path: str) -> tuple[nn.Module, dict[str, Any]]:
    scope = cfg.get("default_scope")
    backbone = (cfg.get("model") or {}).get("backbone")
    if not backbone:
        raise UserError(f"the config {path} has no model.backbone; give one with a backbone")
    dropped = ("init_cfg", "pretrained")  # files that may not be there
    backbone = ConfigDict({key: value for key, value in backbone.items() if key not in dropped})
    backbone.update({key: value for key, value in _MAPS.items() if key in backbone})
    with DefaultScope.overwrite_default_scope(scope):
        try:
            model = ENGINE_MODELS.build(backbone)
        except (KeyError, TypeError, ValueError) as error:  # what registries and models raise
            raise UserError(f"the backbone of {path} cannot be built: {error}") from error
    mean, std, is_rgb = input_norm(cfg)
    facts = {"mean": mean, "std": std, "is_rgb": is_rgb}
    if scope is not None:
        facts["shape"] = tuple(default_shape(cfg))
    return model, facts


def input_norm(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and standard deviation of a config's input, and whether it has red first."""
    settings: Mapping[str, Any] = {
        **(cfg.get("data_preprocessor") or {}),
        **(cfg.model.get("data_preprocessor") or {}),
    }
    mean, std = (tuple(settings.get(key) or default) for key, default in
                 (("mean", (0.0,) * 3), ("std", (1.0,) * 3)))  # fmt: skip
    return mean, std, bool(settings.get("to_rgb") or settings.get("bgr_to_rgb"))


def _load(model: nn.Module, checkpoint: str, is_timm: bool) -> None:
    if not is_timm:
        load_backbone(model, checkpoint)
        return
    content = load_file(checkpoint)
    state_dict = content.get("state_dict") or content.get("model") or content
    try:
        check_match(state_dict, model, source=checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    model.load_state_dict(state_dict)


def even_layer_scales(model: nn.Module) -> int:
    """Set layer scales that nobody has trained to 1.

    They start as one small number, 1e-6 in a ConvNeXt, so that an untrained block adds nothing that
    can be seen.

    Args:
        model: Changed in place: its vectors all of whose entries are the same number between 0 and
            1, which no norm and no bias is; the slopes of PReLU stay as they are.

    Returns:
        How many there are.
    """
    count = 0
    slopes = {id(module.weight) for module in model.modules() if isinstance(module, nn.PReLU)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in slopes:
                continue
            first = parameter.flatten()[0]
            is_vector = parameter.numel() == max(parameter.shape, default=0) > 1
            if is_vector and 0 < first < 1 and (parameter == first).all():
                parameter.fill_(1.0)
                count += 1
    return count
