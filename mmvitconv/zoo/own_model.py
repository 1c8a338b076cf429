"""The model of an architecture for own classes, from the shipped config nearest to it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any

from mmengine.config import Config

from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.weights.index import Weights, weights_of
from mmvitconv.zoo.table import Arch, read_table

__all__ = ["Recipe", "find_recipe", "set_classes"]

# What the names of configs for a task begin with, the better one first
METHODS = {
    "classification": ("",),
    "detection": ("retinanet_", "maskrcnn_"),
    "instance": ("maskrcnn_", "cascade_maskrcnn_"),
    "semantic": ("upernet_", "fpn_"),
}
KINDS = {"classification": "classification", "semantic": "segmentation"}
# Widths and depths of necks and heads, and those for a CPU
NARROW = {
    **dict.fromkeys(("out_channels", "feat_channels", "conv_out_channels"), (256, 96)),
    **{"fc_out_channels": (1024, 256), "channels": (512, 96)},
    **{"stacked_convs": (4, 2), "num_convs": (4, 2), "num_shared_convs": (4, 2)},
}
# Last of all: narrow models for first runs on a CPU
DEMOS = ("nuclei", "trees", "mnist", "cifar10")


class Recipe:
    """What a shipped config says about an architecture.

    Attributes:
        name: The config.
        model: Its ``model``, for the architecture.
        optim_wrapper: Its ``optim_wrapper``.
        weights: ImageNet weights of the architecture; None where nothing is published.
    """

    def __init__(self, name: str, cfg: Config, arch: Arch, sibling: Arch) -> None:
        self.name = name
        self.model: dict[str, Any] = deepcopy(cfg.model.to_dict())
        self.optim_wrapper: dict[str, Any] = deepcopy(cfg.optim_wrapper.to_dict())
        self.weights = imagenet_weights(arch)
        if sibling is not arch:
            self.model["backbone"]["arch"] = arch.arch
            neck = self.model.get("neck")
            has_neck = neck and "in_channels" in str(neck)
            readers = ("neck",) if has_neck else ("head", "decode_head", "auxiliary_head")
            for reader in readers:
                part = self.model.get(reader)
                _replace_channels(part, sibling.out_channels, arch.out_channels)
        init_cfg = self.model["backbone"].get("init_cfg")
        if self.weights is None or (init_cfg and sibling is not arch) or not init_cfg:
            self.model["backbone"].pop("init_cfg", None)
            if self.weights is not None:
                self.model["backbone"].update(self.weights.backbone)
                self.model["backbone"]["init_cfg"] = {
                    "type": "Pretrained",
                    "checkpoint": self.weights.uri,
                }

    def start_from_scratch(self) -> None:
        """Forget the weights; no part of random numbers stays frozen."""
        self.weights = None
        backbone = self.model["backbone"]
        for key in ("init_cfg", "norm_eval", "frozen_stages"):
            backbone.pop(key, None)
        if "layer_scale_init_value" in backbone:  # of long trainings: blocks that hardly act
            backbone["layer_scale_init_value"] = 0.1

    def make_narrow(self) -> None:
        """Give neck and heads of 256 channels 96, and half of their layers: for a CPU."""
        for name, part in self.model.items():
            if name == "neck" or name.endswith("_head"):
                _narrow(part, own_inputs=name != "auxiliary_head", is_neck=name == "neck")


def imagenet_weights(arch: Arch) -> Weights | None:
    """Return the first published ImageNet weights that a backbone of the architecture loads."""
    entries = weights_of(f"{arch.family}:{arch.arch}")
    fit = [entry for entry in entries if entry.loads and entry.task == "classification"]
    return next((entry for entry in fit if "1k" in entry.dataset), next(iter(fit), None))


def find_recipe(arch: Arch, task: str) -> Recipe:
    """Return the model of an architecture for a task.

    Args:
        arch: The architecture.
        task: ``'classification'``, ``'detection'``, ``'instance'`` or ``'semantic'``.

    Returns:
        That of its own config, else of another size of its family.

    Raises:
        UserError: No config of the family is for the task.
    """
    family = read_table()[arch.family].archs
    for is_demo in (False, True):
        for owner in (arch, *(other for other in family if other is not arch)):
            for method in METHODS[task]:
                for config in owner.configs:
                    name = PurePosixPath(config.path).stem
                    if (
                        config.task == KINDS.get(task, "detection")
                        and name.startswith(method)
                        and (name.rpartition("_")[2] in DEMOS) is is_demo
                        and "_3x_" not in name
                    ):
                        recipe = Recipe(name, load_config(config.path), arch, owner)
                        if task == "detection" and method != "retinanet_":
                            _drop_masks(recipe.model)
                        return recipe
    others = sorted(
        f"{name.lower()}_{entry.archs[0].arch}"
        for name, entry in read_table().items()
        if any(KINDS.get(task, "detection") in one.tasks for one in entry.archs)
    )
    raise UserError(
        f"no shipped config uses {arch.family} for {task}; give --arch one of {', '.join(others)}"
    )


def _replace_channels(node: Any, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Let what reads the backbone's outputs read those of another size of the family."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "in_channels" and isinstance(value, (list, tuple)):
                first = len(old) - len(value)
                if list(value) == list(old[first:]):
                    node[key] = list(new[first:])
            elif key == "in_channels" and value in old:
                node[key] = new[len(old) - 1 - old[::-1].index(value)]
            else:
                _replace_channels(value, old, new)
    elif isinstance(node, (list, tuple)):
        for item in node:
            _replace_channels(item, old, new)


def _narrow(node: Any, own_inputs: bool, is_neck: bool = False) -> None:
    """Replace widths and depths in a part of a model.

    Args:
        node: The part; changed in place.
        own_inputs: Whether what it reads comes from another such part.
        is_neck: Leave its inputs, which are the backbone's.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, (dict, list, tuple)) and key != "in_channels":
                _narrow(value, own_inputs, is_neck)
            elif key in NARROW and NARROW[key][0] == value:
                node[key] = NARROW[key][1]
            elif key == "in_channels" and own_inputs and not is_neck:
                if value == 256:
                    node[key] = 96
                elif isinstance(value, (list, tuple)) and set(value) == {256}:
                    node[key] = [96] * len(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            _narrow(item, own_inputs, is_neck)


def _drop_masks(model: dict[str, Any]) -> None:
    """Make Faster R-CNN of Mask R-CNN."""
    model["type"] = "FasterRCNN"
    model["roi_head"] = {
        key: value for key, value in model["roi_head"].items() if not key.startswith("mask_")
    }
    model["data_preprocessor"].pop("pad_mask", None)
    model["train_cfg"]["rcnn"].pop("mask_size", None)
    model["test_cfg"]["rcnn"].pop("mask_thr_binary", None)


def set_classes(node: Any, number: int) -> None:
    """Set ``num_classes`` wherever a model has it.

    Args:
        node: The model, or a part of it; changed in place.
        number: Of the classes.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "num_classes":
                node[key] = number
            else:
                set_classes(value, number)
    elif isinstance(node, (list, tuple)):
        for item in node:
            set_classes(item, number)
