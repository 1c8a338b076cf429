"""Models by name, without a config: classifiers, feature maps, pooled features.

A classifier is what the config of the same name builds with mmpretrain's ``ImageClassifier``, with
the same keys in its state dict, so checkpoints go from one to the other. Methods have the names
that timm's models give them; :mod:`mmvitconv.timm` registers the names with timm.
"""

from __future__ import annotations

import fnmatch
import inspect
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.models import backbones
from mmvitconv.models.base import (
    Backbone,
    PyramidBackbone,
    check_increasing,
    check_positive,
    check_rate,
    is_integer,
    normalise_indices,
)
from mmvitconv.models.necks import LightViTPooling
from mmvitconv.weights.files import load_file
from mmvitconv.weights.index import Weights, read_inputs, weights_of
from mmvitconv.weights.match import adapt_checkpoint, check_match, own_entries

__all__ = [
    "Classifier",
    "FeatureExtractor",
    "FeatureInfo",
    "ImageTransform",
    "create_model",
    "create_transform",
    "find_entry",
    "list_models",
]

NUM_CLASSES = 1000  # of ImageNet-1k, on which all published classifiers were trained
# Parameters that no recipe decays, beside those of one dimension.
_UNDECAYED = ("pos_embed", "cls_token", "global_token", "relative_position_bias_table", "gamma",
              "beta", "static_key", "static_value", "static_kernel")  # fmt: skip


@dataclass(frozen=True)
class _Design:
    """How a family's architectures are called, and made into classifiers.

    Attributes:
        name: Of the models; ``{}`` stands for the architecture.
        family: Name of the backbone's class.
        input: What the models expect of an image, where no published weights say it.
        options: Arguments of the classifier's backbone and of the feature extractor's.
        classifier: Arguments of the classifier's backbone alone.
        levels: Stages whose maps are features; None for all.
        neck: Makes the module between backbone and head from the backbone's channels; None where
            the backbone pools.
        drop_rate: Dropout in front of the head.
    """

    name: str
    family: str
    input: str
    options: Mapping[str, Any] = field(default_factory=dict)
    classifier: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[int, ...] | None = None
    neck: Callable[[int], nn.Module] | None = None
    drop_rate: float = 0.0


_MIXERS = {"softmax": None, "lnrelu": "ln_relu", "dwvit": "dwvit"}
_DESIGNS = (
    _Design("fcvit_{}", "FCViT", "imagenet_248"),
    _Design("lightvit_{}", "LightViT", "imagenet_256", classifier={"out_type": "raw"},
            neck=LightViTPooling),
    _Design("convmixer_{}", "ConvMixer", "imagenet_233", classifier={"pad_to_patch": False}),
    _Design("parcnet_{}", "ParCNet", "parcnet_288", levels=(0, 1, 2, 3, 4), drop_rate=0.2),
    _Design("parc_convnext_{}", "ParCConvNeXt", "imagenet_256",
            classifier={"gap_before_final_norm": True}),
    _Design("parc_resnet{}", "ParCResNet", "imagenet_256"),
    _Design("parc_mobilenetv2", "ParCMobileNetV2", "imagenet_256", levels=(0, 1, 2, 4, 7),
            drop_rate=0.2),
    _Design("deit_{}", "DynConvViT", "imagenet_256",
            options={"mixer": "deit", "with_cls_token": True},
            classifier={"out_type": "cls_token"}),
    *(
        _Design(f"dynconv_{kind}_{{}}_{label}", family, "imagenet_256",
                options={"mixer": mixer or kind})
        for (kind, family), (label, mixer) in product(
            {"deit": "DynConvViT", "swin": "DynConvSwin"}.items(), _MIXERS.items()
        )
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """A model of a name."""

    name: str
    arch: str
    design: _Design

    @property
    def family(self) -> type[PyramidBackbone]:
        return getattr(backbones, self.design.family)

    @property
    def levels(self) -> tuple[int, ...]:
        """The stages whose maps are features; of token models all blocks."""
        sizes = sys.modules[self.family.__module__].ARCHS[self.arch]
        count = sizes.depth if hasattr(sizes, "depth") else len(sizes.depths)
        return self.design.levels or tuple(range(count))

    def find_weights(self) -> Weights | None:
        """Return the published weights of the classifier."""
        options = {**self.design.options, **self.design.classifier}
        published = weights_of(f"{self.design.family}:{self.arch}")
        return next(
            (
                entry
                for entry in published
                if entry.task == "classification" and entry.loads
                and entry.backbone.items() <= options.items()
            ),
            None,
        )  # fmt: skip

    def default_cfg(self) -> dict[str, Any]:
        """Return what the model expects of an image, and where its weights are."""
        published = self.find_weights()
        image = published.input if published else read_inputs()[self.design.input]
        return {
            "architecture": self.name,
            "input_size": (3, image.crop, image.crop),
            "mean": tuple(round(value / 255, 6) for value in image.mean),
            "std": tuple(round(value / 255, 6) for value in image.std),
            "colours": image.colours,
            "interpolation": image.interpolation,
            "antialias": image.antialias,
            "resize": image.resize,
            # timm makes it the resized side again, by floor(side / crop_pct)
            "crop_pct": image.crop / (image.resize + 0.5),
            "crop_mode": "center",
            "num_classes": NUM_CLASSES,
            "classifier": "head.fc",
            "url": published.uri if published else None,
            "license": published.licence if published else None,
        }


@cache
def _entries() -> tuple[dict[str, _Entry], dict[str, str]]:
    """Return all models by name, and names by other names."""
    entries, others = {}, {}
    for design in _DESIGNS:
        archs = sys.modules[getattr(backbones, design.family).__module__].ARCHS
        for arch, sizes in archs.items():
            first = next(key for key in archs if archs[key] == sizes)
            name = design.name.format(arch)
            if arch == first:
                entries[name] = entry = _Entry(name, arch, design)
                published = entry.find_weights()
                if published is not None:
                    others[published.name] = name
            else:
                others[name] = design.name.format(first)
    return entries, others


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Return the names that :func:`create_model` takes.

    Args:
        filter: A pattern with ``*`` and ``?``; all names if it is empty.
        pretrained: Only models with published ImageNet weights.

    Returns:
        Names, family by family; empty where none matches.

    Examples:
        >>> list_models("fcvit*")
        ['fcvit_tiny', 'fcvit_s12', 'fcvit_s24', 'fcvit_s48']
    """
    return [
        name
        for name, entry in _entries()[0].items()
        if fnmatch.fnmatch(name, filter or "*")
        and not (pretrained and entry.find_weights() is None)
    ]


def find_entry(name: str) -> _Entry:
    """Return the model of a name.

    Args:
        name: As for :func:`create_model`.

    Raises:
        UserError: There is none; similar ones are named.
    """
    if not isinstance(name, str):
        raise UserError(f"name must be one of list_models(), got {name!r}")
    entries, others = _entries()
    plain = name.lower().replace("-", "_")
    entry = entries.get(others.get(plain, plain))
    if entry is None:
        near = get_close_matches(plain, [*entries, *others], n=3)
        first = dict.fromkeys(others.get(key, key) for key in near)
        hint = f"did you mean {' or '.join(first)}?" if near else "list_models() has all names"
        raise UserError(f"there is no model {name!r}; {hint}")
    return entry


def create_model(
    name: str,
    pretrained: bool | str | os.PathLike = False,
    num_classes: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    **kwargs: Any,
) -> Classifier | FeatureExtractor:
    """Build a classifier, or what gives the maps of its stages.

    Args:
        name: One of :func:`list_models`, or the name of published weights (``'swin_tiny'``).
        pretrained: Load the published ImageNet weights, which are fetched once per machine, or
            those of a file or address that :func:`mmvitconv.weights.load_file` takes.
        num_classes: Classes of the head, which is drawn anew unless the weights have as many; None
            for ImageNet's 1000, 0 for pooled features without a head. Feature maps have no head.
        features_only: Give maps of several strides, as ``feature_info`` of the result says.
        out_indices: With ``features_only``, which of the levels are given, in increasing order,
            negative ones from the end; one number means the last so many. None for all, and for
            the usual four where every block is a level.
        in_chans: Channels of the images, at least 1. Pretrained kernels of the first convolution
            are summed for one channel, and repeated and scaled for others than three.
        drop_path_rate: Stochastic depth of the last block, in [0, 1).
        **kwargs: ``drop_rate`` and ``global_pool`` of :class:`Classifier`, and other arguments of
            the backbone.

    Returns:
        The model, in training mode as torch builds modules.

    Raises:
        UserError: There is no such name, or nothing is published for it.
        CheckpointError: The weights cannot be had, or do not belong to the model.
        ValueError: An argument is outside its legal range.

    Examples:
        >>> model = create_model("fcvit_tiny", num_classes=10).eval()
        >>> tuple(model(torch.rand(1, 3, 64, 64)).shape)
        (1, 10)
        >>> create_model("fcvit_tiny", features_only=True).feature_info.channels()
        [32, 64, 160, 320]
    """
    entry = find_entry(name)
    _check_names(entry, kwargs)
    check_positive(in_chans=in_chans)
    if not isinstance(pretrained, (bool, str, os.PathLike)):
        raise UserError(f"pretrained must be True, False, a file or an address, got {pretrained!r}")
    published = entry.find_weights()
    options = {**entry.design.options, "in_channels": in_chans, "drop_path_rate": drop_path_rate}
    if features_only:
        taken = inspect.signature(entry.family).parameters
        idle = [key for key in ("drop_rate", "global_pool") if key in kwargs and key not in taken]
        kwargs = {key: value for key, value in kwargs.items() if key not in idle}
        if idle := [*(["num_classes"] if num_classes else []), *idle]:
            print_log(
                f"{', '.join(idle)} of create_model: no effect with features_only=True, since "
                "feature maps have no head",
                "current",
                logging.WARNING,
            )
        model = FeatureExtractor(entry, out_indices, {**options, **kwargs})
    elif out_indices is not None:
        raise UserError("out_indices choose among feature maps; give features_only=True as well")
    else:
        own = {key: kwargs.pop(key) for key in ("drop_rate", "global_pool") if key in kwargs}
        options = {**options, **entry.design.classifier, **kwargs}
        classes = NUM_CLASSES if num_classes is None else num_classes
        model = Classifier(entry, classes, options, **own)
    if pretrained is True:
        if published is None:
            raise UserError(
                f"no ImageNet weights are published for {entry.name!r}; "
                "list_models(pretrained=True) has those with weights, and pretrained takes a file"
            )
        pretrained = published.uri
    if pretrained:
        _load(model, os.fspath(pretrained), is_new_head=num_classes is not None)
    return model


def _check_names(entry: _Entry, given: Mapping[str, Any]) -> None:
    """Raise a UserError for arguments that neither create_model nor the backbone has."""
    own = {*inspect.signature(create_model).parameters, "drop_rate", "global_pool"}
    taken = (inspect.signature(kind).parameters for kind in (entry.family, Backbone))
    legal = own.union(*taken) - {"kwargs", "options", "arch", "num_stages"}
    for name in given:
        if name not in legal:
            near = get_close_matches(name, sorted(legal), n=1)
            hint = f"did you mean {near[0]}?" if near else f"legal are {', '.join(sorted(legal))}"
            raise UserError(f"{entry.name} has no argument {name!r}; {hint}")


def _load(model: Classifier | FeatureExtractor, source: str, is_new_head: bool) -> None:
    """Load weights, all of them but those of a head for other classes, or raise."""
    own = own_entries(model)
    first = f"{_first_conv(model)}.weight"
    try:
        state_dict = adapt_checkpoint(load_file(source, mmap=True), model)["state_dict"]
        if first in state_dict and state_dict[first].ndim == 4:
            state_dict[first] = _adapt_channels(state_dict[first], own[first].shape[1])
        heads = {key: own[key] for key in own if key.startswith("head.")}
        given = {key for key in state_dict if key.startswith("head.")}
        if is_new_head and any(
            key not in heads or heads[key].shape != state_dict[key].shape for key in given
        ):
            state_dict = {k: v for k, v in state_dict.items() if k not in given} | heads
            print_log(f"{source}: the head is not loaded, it is for other classes", "current")
        scope = "all" if isinstance(model, Classifier) else "backbone"
        check_match(state_dict, model, scope, source)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    model.load_state_dict({k: v for k, v in state_dict.items() if k in own}, strict=False)


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """Make a first convolution of three channels fit images of others; the response stays."""
    if kernel.shape[1] != 3 or channels == 3:
        return kernel
    repeated = kernel.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return kernel.sum(1, keepdim=True) if channels == 1 else repeated * (3 / channels)


def _first_conv(model: nn.Module) -> str:
    return next(name for name, part in model.named_modules() if isinstance(part, nn.Conv2d))


class FeatureInfo:
    """What the levels of a model are, in the form of timm's class of this name.

    Args:
        info: Of each level ``num_chs``, ``reduction``, ``module`` and ``index``.
        out_indices: The levels that the model gives.
    """

    def __init__(self, info: Sequence[Mapping[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = list(info)
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return an entry of one level, of several, or of those that the model gives."""
        if is_integer(idx):
            return self.info[idx][key]
        return [self.info[index][key] for index in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return numbers of channels."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return strides in pixels."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the names of the modules that the maps come from."""
        return self.get("module", idx)

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """Return levels as dicts, whole or some of their entries."""
        if is_integer(idx):
            return {key: self.info[idx][key] for key in keys or self.info[idx]}
        indices = self.out_indices if idx is None else idx
        return [{key: self.info[i][key] for key in keys or self.info[i]} for i in indices]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.info[index]

    def __len__(self) -> int:
        return len(self.info)


def _choose(name: str, given: int | Sequence[int] | None, count: int) -> list[int]:
    """Return which of ``count`` levels are meant, as timm has it; see :func:`create_model`.

    Args:
        name: Of the argument, for the message.
        given: What the user gave.
        count: How many there are.

    Raises:
        ValueError: There is no such level, or none is asked for.
    """
    if given is None:
        return list(range(count))
    if not is_integer(given):
        return normalise_indices(name, given, count, "levels")
    if not 0 < given <= count:
        raise ValueError(
            f"{name} as one number means the last so many of {count} levels and must be 1 to "
            f"{count}, got {given!r}; give ({given},) for one level"
        )
    return list(range(count - given, count))


class _Model(nn.Module):
    """What classifiers and feature extractors share."""

    output_fmt = "NCHW"

    def _finish(self, entry: _Entry) -> None:
        """Set what is known of the model, when its modules are there."""
        backbone = self.backbone
        self.name = entry.name
        self.levels = entry.levels
        self._levels_info = [
            {
                "num_chs": backbone.all_channels[stage],
                "reduction": backbone.all_strides[stage],
                "module": f"backbone.{backbone.last_block(stage)}",
                "index": index,
            }
            for index, stage in enumerate(self.levels)
        ]
        cfg = entry.default_cfg()
        side = cfg["input_size"][1]
        pool = -(-side // backbone.all_strides[-1])
        self.default_cfg = self.pretrained_cfg = {
            **cfg,
            "input_size": (backbone.in_channels, side, side),
            "pool_size": (pool, pool),
            "first_conv": _first_conv(self),
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, to save memory."""
        self.backbone.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return what gives the layer of a parameter, or with ``coarse`` its stage."""

        def layer(name: str) -> int:
            return self.backbone.get_layer_depth(name, "backbone.")[0]

        if not coarse:
            return layer
        firsts = [layer(f"backbone.{names[0][0]}.x") for names in map(
            self.backbone.layer_names, range(self.backbone.num_stages))]  # fmt: skip
        return lambda name: sum(layer(name) >= first for first in firsts)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are not decayed, beside norms and biases."""
        return {
            name for name, _ in self.named_parameters() if name.rpartition(".")[2] in _UNDECAYED
        }


class FeatureExtractor(_Model):
    """A backbone that gives maps of several strides, finest first.

    Args:
        entry: The model's entry.
        out_indices: See :func:`create_model`.
        options: Arguments of the backbone.

    Attributes:
        feature_info: Channels, strides and names of the levels.
        default_cfg: What the model expects of an image.
    """

    def __init__(
        self, entry: _Entry, out_indices: int | Sequence[int] | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        levels, chosen = entry.levels, {}
        if out_indices is not None or entry.design.levels:
            indices = _choose("out_indices", out_indices, len(levels))
            check_increasing("out_indices", indices, out_indices)
            chosen = {"out_indices": [levels[index] for index in indices]}
        self.backbone = entry.family(entry.arch, **chosen, **options)
        self._finish(entry)
        indices = [levels.index(stage) for stage in self.backbone.out_indices]
        self.feature_info = FeatureInfo(self._levels_info, indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute maps of shape (B, C_i, H_i, W_i) from images (B, in_chans, H, W)."""
        return list(self.backbone(x))


class Classifier(_Model):
    """A backbone, what pools its last map, and a linear head.

    Args:
        entry: The model's entry.
        num_classes: Classes of the head; 0 for none.
        options: Arguments of the backbone.
        drop_rate: Dropout in front of the head, in [0, 1); None for the recipe's.
        global_pool: ``'avg'`` for the model's own pooling, ``''`` for none, with
            ``num_classes=0``.

    Attributes:
        num_features: Channels of the last map.
        head_hidden_size: Width of what the head takes.
        default_cfg: What the model expects of an image.
    """

    def __init__(
        self,
        entry: _Entry,
        num_classes: int,
        options: Mapping[str, Any],
        drop_rate: float | None = None,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        drop_rate = entry.design.drop_rate if drop_rate is None else drop_rate
        check_rate("drop_rate", drop_rate)
        self.backbone = entry.family(entry.arch, out_indices=(-1,), **options)
        self.num_features = self.head_hidden_size = self.backbone.out_channels[-1]
        self.neck = None
        if entry.design.neck is not None:
            self.neck = entry.design.neck(self.num_features)
            self.head_hidden_size = self.neck.norm.normalized_shape[0]
        self.head = nn.Sequential(OrderedDict(drop=nn.Dropout(drop_rate), fc=nn.Identity()))
        self.reset_classifier(num_classes, global_pool)
        self._finish(entry)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, strides and names of the levels of :meth:`forward_intermediates`."""
        return self._levels_info

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what is pooled: a map (B, C, H, W), or tokens (B, N, C)."""
        return self.forward_intermediates(x, indices=1)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features and, unless ``pre_logits``, classify them."""
        if self.global_pool:
            x = self.backbone.pool(x) if self.neck is None else self.neck((x,))[0]
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the maps of levels beside the features.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Levels, see :attr:`feature_info`; one number means the last so many, None all.
            norm: Norm the maps that the norm behind the last stage fits: that stage's, and of token
                models all.
            stop_early: Leave out what is behind the last of ``indices``.
            output_fmt: ``'NCHW'``, or ``'NLC'`` for maps as tokens (B, H * W, C).
            intermediates_only: Return the maps alone.

        Returns:
            What :meth:`forward_features` gives, or with ``stop_early`` the last map, not normed,
            if it is of a stage before the last; and a list of maps, finest first.

        Raises:
            ValueError: There is no such level or format.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        wanted = [self.levels[i] for i in _choose("indices", indices, len(self.levels))]
        backbone, maps = self.backbone, []
        state: Any = backbone.check_image(x)
        end = backbone.num_stages - 1
        last = max(wanted) if stop_early else end
        for stage in range(last + 1):
            state = backbone.run_stage(stage, backbone.embed(stage, state))
            if stage in wanted:
                fits = norm and backbone.all_channels[stage] == backbone.all_channels[end]
                x = backbone.to_map(state, backbone.norm_of(end) if fits else None)
                maps.append(x if output_fmt == "NCHW" else x.flatten(2).transpose(1, 2))
        if intermediates_only:
            return maps
        return (backbone.to_features(state) if last == end else backbone.to_map(state)), maps

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages behind the last level that is needed, and the head.

        Args:
            indices: Levels whose maps are needed, as in :meth:`forward_intermediates`.
            prune_norm: Whether the norm behind the last stage goes, too.
            prune_head: Whether the head goes; it does where it does not fit what is left.

        Returns:
            The levels, from 0 on.

        Raises:
            ValueError: There is no such level.
        """
        wanted, backbone = _choose("indices", indices, len(self.levels)), self.backbone
        end = max(wanted) + 1
        last = self.levels[end - 1] if end < len(self.levels) else backbone.num_stages - 1
        if prune_norm or last < backbone.num_stages - 1:
            backbone.truncate(last, keeps_norm=not prune_norm)
        self.levels, self._levels_info = self.levels[:end], self._levels_info[:end]
        channels = backbone.all_channels[last]
        if prune_head or channels != self.num_features:
            self.neck, self.num_features, self.head_hidden_size = None, channels, channels
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        """Return the head's last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Draw a new head.

        Args:
            num_classes: Its classes; 0 for none.
            global_pool: ``'avg'``, ``''`` for no pooling either, None for no change.

        Raises:
            ValueError: An argument is outside its legal range.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", "") or (pool == "" and num_classes):
            raise ValueError(
                f"global_pool must be 'avg', or '' with num_classes=0, got {pool!r} with "
                f"num_classes={num_classes}"
            )
        if not is_integer(num_classes) or num_classes < 0:
            raise ValueError(f"num_classes must be an integer of at least 0, got {num_classes!r}")
        self.global_pool, self.num_classes = pool, num_classes
        fc: nn.Module = nn.Identity()
        if num_classes:
            fc = nn.Linear(self.head_hidden_size, num_classes)
            nn.init.trunc_normal_(fc.weight, std=0.02)
            nn.init.zeros_(fc.bias)
        self.head.fc = fc.to(next(self.backbone.parameters()))


_MAX_ASPECT = 256  # the long side is resized, too, before the centre is cropped


@dataclass(frozen=True)
class ImageTransform:
    """What makes the input of a model from an image: resize, crop the centre, normalise.

    Args:
        resize: Pixels of the short side.
        crop: Side of the square.
        mean: Subtracted from values in [0, 1], one number for each colour, in the model's order.
        std: What the difference is divided by.
        colours: ``'RGB'`` or ``'BGR'``, the order of the model.
        interpolation: ``'bicubic'`` or ``'bilinear'``.
        antialias: Whether resizing averages over all pixels (Pillow's) or not (OpenCV's).
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colours: str = "RGB"
    interpolation: str = "bicubic"
    antialias: bool = True

    def __call__(self, image: Any) -> Tensor:
        """Return the input (3, crop, crop) of one image.

        Args:
            image: A picture of Pillow, or numbers of 0 to 255 in RGB of shape (H, W, 3).

        Raises:
            UserError: It is something else, or its sides are too different to be resized.
        """
        pixels = _read_pixels(image)
        height, width = pixels.shape[:2]
        if max(height, width) > _MAX_ASPECT * min(height, width):
            raise UserError(
                f"the sides of an image may differ by a factor of {_MAX_ASPECT}, since the short "
                f"one becomes {self.resize} pixels, got {height} x {width}; cut it into pieces"
            )
        scale = self.resize / min(height, width)
        size = [
            self.resize if side == min(height, width) else int(side * scale)
            for side in (height, width)
        ]
        x = self._resized(pixels, size)
        top, left = (round((side - self.crop) / 2) for side in size)
        top, left = max(top, 0), max(left, 0)
        x = x[:, top : top + self.crop, left : left + self.crop] / 255
        x = x.flip(0) if self.colours == "BGR" else x
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std

    def _resized(self, pixels: np.ndarray, size: Sequence[int]) -> Tensor:
        """Return whole numbers of shape (3, *size), as a library of images gives them."""
        if self.antialias:
            from PIL import Image

            method = getattr(Image.Resampling, self.interpolation.upper())
            resized = Image.fromarray(pixels).resize((size[1], size[0]), method)
            return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
        x = F.interpolate(x, size=list(size), mode=self.interpolation, align_corners=False)
        return x[0].round().clamp(0, 255)


def _read_pixels(image: Any) -> np.ndarray:
    """Return a picture as numbers of 0 to 255 in RGB of shape (H, W, 3), or raise a UserError."""
    if hasattr(image, "convert"):
        if image.mode.startswith(("I", "F")):  # Pillow would cut off what is above 255
            raise UserError(
                f"an image must have 8 bits for each colour, got mode {image.mode!r}; scale its "
                "values to 0 to 255 first, as in training"
            )
        try:
            image = np.asarray(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise UserError(f"this image of mode {image.mode!r} cannot be read: {error}") from error
    if isinstance(image, Tensor) and image.dtype == torch.uint8:
        image = image.cpu().numpy()
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if not is_array or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        has_shape = hasattr(image, "dtype") and hasattr(image, "shape")
        given = f"{image.dtype} of {tuple(image.shape)}" if has_shape else type(image).__name__
        raise UserError(
            "an image must be Pillow's or an array of uint8 of shape (H, W, 3) with H, W >= 1, "
            f"got {given}"
        )
    return image


def create_transform(model: Classifier | FeatureExtractor) -> ImageTransform:
    """Return what makes a model's input from an image, as its weights were evaluated.

    Args:
        model: From :func:`create_model`, for images of three channels.

    Raises:
        UserError: The model is not of :func:`create_model`, or takes other images.

    Examples:
        >>> transform = create_transform(create_model("fcvit_tiny"))
        >>> transform.resize, transform.crop
        (248, 224)
    """
    names = ("resize", "mean", "std", "colours", "interpolation", "antialias")
    cfg = getattr(model, "default_cfg", None)
    if not isinstance(cfg, Mapping) or not {"input_size", *names} <= cfg.keys():
        raise UserError(
            f"create_transform takes models of create_model, got {type(model).__name__}; give the "
            "model inside, or for a model of timm's own take timm.data.create_transform"
        )
    channels, crop, _ = cfg["input_size"]
    if channels != 3:
        raise UserError(f"this model takes images of {channels} channels, for which nothing is set")
    return ImageTransform(crop=crop, **{name: cfg[name] for name in names})
