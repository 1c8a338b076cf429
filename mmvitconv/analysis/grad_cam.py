"""Grad-CAM: where in an image a classifier or segmentor sees a class.

After Selvaraju et al., arXiv:1610.02391; computed by the package ``grad-cam``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmvitconv.analysis.pictures import new_figure, plain, show_bar, show_image
from mmvitconv.apis.images import build_pipeline
from mmvitconv.errors import UserError
from mmvitconv.models.backbones.lightvit import LightViT
from mmvitconv.zoo.loading import LoadedModel, find_test_dataset

__all__ = ["ClassMap", "draw_class_map", "grad_cam"]

_TASKS = ("classification", "segmentation")


class ClassMap(NamedTuple):
    """Where a class is seen."""

    values: np.ndarray  # from 0 to 1, shape (H, W)
    source: np.ndarray  # the image as the model gets it, shape (H, W, 3), uint8
    target: int  # index of the class
    name: str  # of the class
    score: float  # of a classifier its probability, of a segmentor the share of pixels predicted so
    layer: str  # whose output was looked at


def _model_input(loaded: LoadedModel, pixels: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Return the input that the config's test pipeline makes of an image, and how it looks."""
    cfg = loaded.config
    steps = find_test_dataset(cfg).get("pipeline") or cfg.get("test_pipeline")
    if not steps:
        raise UserError("this config has no test pipeline; give one with test_dataloader")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        loading, pipeline = build_pipeline(steps)
        loads_rgb = loading.channel_order == "rgb"
        colours = pixels if loads_rgb else pixels[:, :, ::-1]
        image = (
            pixels.mean(axis=2, keepdims=True).astype(np.uint8)
            if loaded.in_channels == 1
            else colours
        )
        shape = image.shape[:2]
        packed = pipeline(
            {
                "img": np.ascontiguousarray(image),
                "img_shape": shape,
                "ori_shape": shape,
                "img_path": "",
                "seg_fields": [],
                "sample_idx": 0,
            }
        )
        data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
        inputs = loaded.module.data_preprocessor(data, training=False)["inputs"]
    view = inputs[0].detach().cpu().permute(1, 2, 0).float().numpy()
    view = view * np.float32(loaded.std) + np.float32(loaded.mean)
    view = view if loaded.is_rgb != loads_rgb or view.shape[2] == 1 else view[:, :, ::-1]
    view = np.broadcast_to(view, (*view.shape[:2], 3)).round().clip(0, 255).astype(np.uint8)
    return inputs, view


class _Logits(nn.Module):
    """The model's raw outputs, with the features of one layer led through a probe."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.probe = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.model(inputs, mode="tensor")
        return out[-1] if isinstance(out, (tuple, list)) else out

    def lead(self, _layer: nn.Module, _inputs: Any, out: Any) -> Any:
        """Forward hook: pyramids lead their last map, pairs of map and tokens the map."""
        if isinstance(out, Tensor):
            return self.probe(out)
        parts = list(out)
        maps = [index for index, part in enumerate(parts) if part is not None and part.dim() == 4]
        index = maps[-1] if maps else -1
        parts[index] = self.probe(parts[index])
        return tuple(parts)


def grad_cam(
    loaded: LoadedModel,
    pixels: np.ndarray,
    target: str | int | None = None,
    layer: str | None = None,
) -> ClassMap:
    """Compute the map of a class.

    Args:
        loaded: A classifier or segmentor. Load it with ``init_weights=False``: ``init_cfg`` makes
            the last layer's weights, and so all gradients, close to zero.
        pixels: The image, RGB, shape (H, W, 3), uint8.
        target: Index or name of the class; None for the predicted one, of a segmentor the one with
            most pixels.
        layer: Module whose output is looked at; None for the backbone's last map, the last block
            where the backbone averages it by itself, or the last block but one where it returns a
            class token.

    Returns:
        The map, in the resolution of the model's input.

    Raises:
        UserError: The model is of another task, there is no such class or layer, or the layer's
            output is not a map.
    """
    model = loaded.module
    if loaded.task not in _TASKS or not hasattr(model, "backbone"):
        raise UserError(
            f"Grad-CAM is for classifiers and segmentors with a backbone, got a model for "
            f"{loaded.task}; give a config with default_scope 'mmpretrain' or 'mmseg'"
        )
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import (
            ClassifierOutputTarget,
            SemanticSegmentationTarget,
        )
    except ImportError as error:
        raise UserError(
            "Grad-CAM needs the package grad-cam; run: pip install 'mmvitconv[analysis]'"
        ) from error
    layer = layer or _default_layer(model)
    _check_layer(model, layer)
    inputs, view = _model_input(loaded, pixels)
    logits = _Logits(model)
    called: set[str] = set()
    with torch.no_grad(), _noted_calls(model, called):
        scores = logits(inputs)[0].float().softmax(dim=0)
    layer = _called_layer(model, layer, called)
    names = list(loaded.classes[: len(scores)])
    names += [f"class {index}" for index in range(len(names), len(scores))]
    if scores.dim() == 1:
        index = int(scores.argmax()) if target is None else _find_class(target, names)
        score, goal = float(scores[index]), ClassifierOutputTarget(index)
    else:
        predicted = scores.argmax(dim=0).cpu().numpy()
        seen = np.bincount(predicted.ravel(), minlength=len(scores))
        index = int(seen.argmax()) if target is None else _find_class(target, names)
        if not seen[index]:
            found = ", ".join(names[number] for number in np.flatnonzero(seen))
            raise UserError(f"no pixel is predicted as {names[index]!r}; predicted are: {found}")
        score = float(seen[index] / seen.sum())
        goal = SemanticSegmentationTarget(index, np.float32(predicted == index))
        goal.mask = goal.mask.to(inputs.device)  # the package puts it on a GPU where there is one
    hook = model.get_submodule(layer).register_forward_hook(logits.lead)
    strides = _strides(model.backbone)
    try:
        with GradCAM(
            logits,
            [logits.probe],
            reshape_transform=lambda x: _to_map(x, tuple(inputs.shape[2:]), strides, layer),
        ) as cam:
            cam.compute_input_gradient = True  # where all weights are frozen, too
            values = cam(inputs, [goal])[0]
    finally:
        hook.remove()
    return ClassMap(values, view, index, names[index], score, layer)


def _default_layer(model: nn.Module) -> str:
    backbone = model.backbone
    if getattr(backbone, "out_type", None) == "cls_token":
        # What the last block makes of the map reaches no output.
        for name in ("blocks", "layers"):
            if hasattr(backbone, name):
                return f"backbone.{name}.{max(len(getattr(backbone, name)) - 2, 0)}"
    if getattr(backbone, "gap_before_final_norm", False):
        return f"backbone.stages.{len(backbone.stages) - 1}"
    return "backbone"


def _check_layer(model: nn.Module, layer: str) -> None:
    modules = dict(model.named_modules())
    if layer not in modules:
        near = get_close_matches(layer, modules, n=4)
        hint = f"give a name such as {', '.join(near or ['backbone'])}"
        raise UserError(f"the model has no layer {layer!r}; {hint}")
    if isinstance(model.backbone, LightViT) and layer.startswith("backbone.stages"):
        raise UserError(
            f"{layer!r} has its tokens in the order of windows, so they make no map; give "
            "'backbone' or an output norm such as "
            f"'backbone.norm{model.backbone.out_indices[-1]}'"
        )


@contextmanager
def _noted_calls(model: nn.Module, called: set[str]) -> Iterator[None]:
    """Note the names of the modules that run."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            hook = module.register_forward_hook(lambda *_, name=name: called.add(name))
            stack.callback(hook.remove)
        yield


def _called_layer(model: nn.Module, layer: str, called: set[str]) -> str:
    """Return the layer, or the last one in it where it is a list that is never called."""
    chosen = layer
    while chosen not in called:
        children = list(dict(model.get_submodule(chosen).named_children()))
        if not children:
            raise UserError(f"{layer!r} does not run by itself; give another layer or leave it out")
        chosen = f"{chosen}.{children[-1]}"
    return chosen


def _find_class(target: str | int, names: Sequence[str]) -> int:
    if str(target) in names:
        return names.index(str(target))
    if str(target).isdecimal() and int(target) < len(names):
        return int(target)
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise UserError(
        f"there is no class {target!r}; give a number from 0 to {len(names) - 1} "
        f"or a name ({shown})"
    )


def _strides(backbone: nn.Module) -> list[int]:
    own = [int(stride) for stride in getattr(backbone, "strides", ())][::-1]
    return [*own, *(stride for stride in (32, 16, 8, 4, 2, 1) if stride not in own)]


def _to_map(x: Tensor, size: tuple[int, int], strides: Sequence[int], layer: str) -> Tensor:
    """Return features or their gradients as (B, C, h, w), whatever layout they are in."""
    grids = [tuple(-(-side // stride) for side in size) for stride in strides]
    if x.dim() == 4:
        is_last = tuple(x.shape[1:3]) in grids and tuple(x.shape[2:]) not in grids
        return x.permute(0, 3, 1, 2) if is_last else x
    if x.dim() == 3:  # tokens, behind those that are no part of the map
        for height, width in grids:
            if 0 <= x.shape[1] - height * width <= 64:
                tokens = x[:, x.shape[1] - height * width :]
                return tokens.transpose(1, 2).unflatten(2, (height, width))
    raise UserError(
        f"the output of {layer!r} has the shape {tuple(x.shape)}, which is not a map; give "
        "the name of a layer with a map (B, C, H, W)"
    )


def draw_class_map(found: ClassMap, note: str) -> Figure:
    """Draw the image, the map and both together.

    Args:
        found: The map.
        note: The model and the image, for the title.
    """
    height, width = found.source.shape[:2]
    figure = new_figure(
        (11, max(3.4 * height / width, 2) + 1.3),
        f"Grad-CAM of {plain(found.name)!r}, score {found.score:.3f}",
        note,
    )
    axes = figure.subplots(1, 3)
    colours = {"norm": Normalize(0, 1), "cmap": "jet"}
    show_image(axes[0], found.source, f"input, {height} x {width}")
    show_image(axes[1], found.values, f"map of {plain(found.layer)}", **colours)
    axes[2].imshow(found.source)
    show_image(axes[2], found.values, "overlay", alpha=0.45, **colours)
    show_bar(figure, axes, "importance for the class", shrink=0.85, pad=0.01)
    return figure
