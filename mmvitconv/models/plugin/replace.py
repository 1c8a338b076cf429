"""Plug and play: convolutions and attention of anybody's model become circular convolutions.

ParC's papers replace the spatial convolutions of the last blocks of a ConvNet's last stages
(docs/specs/parc.md#3-parc-convnets). Models of torchvision, timm, mmpretrain, mmdet and mmseg are
recognised by what they do in one forward pass, without importing any of these libraries.
"""

import fnmatch
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvitconv.errors import shorten
from mmvitconv.models.layers.parc import ParCPair
from mmvitconv.models.plugin.mixers import KEPT_LAYERS, Grid, SwinParCBlock, TokenParC
from mmvitconv.models.plugin.report import ParCReport, Replacement

__all__ = ["DeepStages", "replace_with_parc"]

# Attention over tokens in one row, class and distillation tokens first: mixer(tokens).
_TOKEN_ATTENTION = (
    ("timm.layers.attention", "Attention"),
    ("timm.models.vision_transformer", "Attention"),
    ("mmpretrain.models.utils.attention", "MultiheadAttention"),
    ("mmcv.cnn.bricks.transformer", "MultiheadAttention"),
)
# Attention in windows that partitions the map itself: mixer(tokens, (H, W)).
_WINDOW_ATTENTION = (
    ("mmpretrain.models.utils.attention", "ShiftWindowMSA"),
    ("mmdet.models.backbones.swin", "ShiftWindowMSA"),
    ("mmseg.models.backbones.swin", "ShiftWindowMSA"),
)
# A block that partitions the map around its attention: block(map of shape (B, H, W, C)).
_WINDOW_BLOCK = (("timm.models.swin_transformer", "SwinTransformerBlock"),)
# Attention that adds its input itself.
_ADDING = (("mmcv.cnn.bricks.transformer", "MultiheadAttention"),)
_MAX_PREFIX = 16  # class, distillation and register tokens


@dataclass(frozen=True)
class DeepStages:
    """Rule: the last blocks of some stages.

    A stage is all candidates of one kind, resolution and number of channels, the finest first;
    channels tell stages apart where dilation stands for strides.

    Args:
        stages: Their indices; negative ones count from the end. None for the last two.
        fraction: Share of each stage's candidates, in (0, 1], rounded up. None for the papers': a
            third (ParC-ConvNeXt), and half of plain 3x3 convolutions (ParC-ResNet50).
    """

    stages: int | Sequence[int] | None = None
    fraction: float | None = None


Rule = DeepStages | Mapping[str, Any] | str | Sequence[str] | Callable[[str, nn.Module], bool]


def replace_with_parc(
    model: nn.Module,
    rule: Rule | None = None,
    image_size: int | Sequence[int] = 224,
    position_embedding: bool = True,
    bias: bool = True,
    instance_kernel: str = "interpolation_bilinear",
    algorithm: str = "auto",
) -> ParCReport:
    """Turn convolutions or attention of a model into circular convolutions, in place.

    A depth-wise convolution becomes a depth-wise :class:`ParCPair`, a plain 3x3 one a dense pair.
    Only those that keep channels (an even number) and resolution can be replaced; a norm behind
    one stays. Attention of ViT, DeiT and Swin becomes a depth-wise pair on the map of patch tokens
    and loses its projections. Class and distillation tokens get the mean of the mixed patch tokens
    instead; the papers do not say how to treat them, this is our own design.

    Kernel lengths are the sizes of the maps for ``image_size``, found in one forward pass without
    gradients in evaluation mode; other sizes and rectangles work afterwards as far as the original
    takes them. Give a backbone rather than a whole detector. With activation checkpointing, token
    mixers recompute with the grid of the latest forward pass.

    Args:
        model: A model or backbone that takes images of shape (B, C, H, W).
        rule: Which modules. None for the papers' rule: the last blocks of the last two stages. A
            :class:`DeepStages` or a dict of its fields; name patterns as in ``fnmatch``, such as
            ``'layer4.*.conv2'``; or a function of name and module that says whether to replace.
        image_size: Pixels, or height and width.
        position_embedding: See :class:`ParC`.
        bias: See :class:`ParC`.
        instance_kernel: See :class:`ParC`.
        algorithm: See :func:`mmvitconv.ops.circular_conv`.

    Returns:
        What was replaced and what it costs; it is logged too.

    Raises:
        ValueError: The model does not take images of this size, has nothing to replace, or the
            rule is illegal or fits nothing.

    Examples:
        >>> import torchvision
        >>> model = torchvision.models.resnet50()
        >>> report = replace_with_parc(model, "layer4.2.conv2")
        >>> report.names
        ('layer4.2.conv2',)
    """
    size = _check_size(image_size)
    candidates = _find_candidates(model, size)
    stages = _group(candidates)
    if not stages:
        raise ValueError(
            f"{type(model).__name__} has nothing to replace at {size[0]} x {size[1]} pixels; "
            "replaceable are depth-wise and plain 3x3 convolutions that keep resolution and an "
            "even number of channels, and the attention of ViT, DeiT and Swin"
        )
    chosen = _choose(stages, rule)
    options = (position_embedding, bias, instance_kernel, algorithm)
    grids: dict[str, Grid] = {}
    replaced = []
    for index, stage in enumerate(stages):
        for item in stage:
            if item in chosen:
                pair = item.build_pair(options)
                replaced.append(item.report(index, pair))
                new = item.build(pair, grids)
                for name in item.names:
                    model.set_submodule(name, new)
    for name, grid in grids.items():
        model.get_submodule(name).register_forward_hook(grid)
    report = ParCReport(size, tuple(replaced))
    print_log(str(report), logger="current")
    return report


@dataclass(eq=False)
class _Candidate:
    """A module that could be replaced.

    Args:
        names: Under which it is in the model, the first one being shown.
        module: Itself.
        kind: 'convolution', 'tokens', 'windows' or 'block'.
        channels: Of its input and output.
        size: Height and width of its map.
        prefix: Number of tokens before the patches'.
        source: Name of the convolution that made the patches; '' where none is needed.
    """

    names: tuple[str, ...]
    module: nn.Module
    kind: str
    channels: int
    size: tuple[int, int]
    prefix: int = 0
    source: str = ""

    @property
    def name(self) -> str:
        """The name that is shown."""
        return self.names[0]

    @property
    def dense(self) -> bool:
        """Whether it is a convolution that mixes channels."""
        return self.kind == "convolution" and self.module.groups == 1

    @property
    def mixer(self) -> nn.Module:
        """The part of the module that is lost."""
        return self.module.attn if self.kind == "block" else self.module

    @property
    def parameters(self) -> int:
        """Number of parameters that are lost."""
        kept = [part for name, part in self.mixer.named_children() if name in KEPT_LAYERS]
        return _count(self.mixer) - sum(map(_count, kept))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of what is lost, for one image."""
        positions = math.prod(self.size)
        if self.kind == "convolution":
            return positions * self.module.weight.numel()
        tokens = keys = positions + self.prefix
        if self.kind != "tokens":
            window = self.module.window_size
            window = window if isinstance(window, Sequence) else (window, window)
            keys = math.prod(window)
            tokens = math.prod(
                math.ceil(length / part) * part
                for length, part in zip(self.size, window, strict=True)
            )
        projections = sum(
            parameter.numel()
            for name, parameter in self.mixer.named_parameters()
            if name.endswith("weight") and parameter.dim() == 2
        )
        return tokens * projections + 2 * tokens * keys * self.channels

    def report(self, stage: int, pair: ParCPair) -> Replacement:
        """Return what is replaced by what."""
        kind = "dense" if self.dense else "depth-wise"
        before = "attention" if self.kind == "tokens" else "attention in windows"
        if self.kind == "convolution":
            before = f"{kind} {'x'.join(map(str, self.module.kernel_size))}"
        lengths = " x ".join(str(length) for length in dict.fromkeys(self.size))
        taps = pair.height.weight.numel() + pair.width.weight.numel()
        return Replacement(
            name=self.name,
            stage=stage,
            before=before,
            after=f"{kind} ParC {lengths}",
            parameters=(self.parameters, _count(pair)),
            multiply_adds=(self.multiply_adds, math.prod(self.size) * taps),
        )

    def build_pair(self, options: tuple) -> ParCPair:
        """Return new circular convolutions, where the module is."""
        pair = ParCPair(self.channels, self.size, self.dense, *options)
        like = next(self.module.parameters())
        return pair.to(like.device, like.dtype).train(self.module.training)

    def build(self, pair: ParCPair, grids: dict[str, "Grid"]) -> nn.Module:
        """Return what takes its place; token mixers of one patch embedding share a grid."""
        if self.kind == "convolution":
            return pair
        if self.kind == "block":
            new: nn.Module = SwinParCBlock(pair, self.module)
        else:
            add_identity = isinstance(self.module, _imported(_ADDING))
            grid = grids.setdefault(self.source, Grid()) if self.source else None
            new = TokenParC(pair, self.module, self.prefix, grid, add_identity)
        new.training = self.module.training  # layers taken over keep theirs
        return new


def _check_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(size) != 2 or not all(type(length) is int and length > 0 for length in size):
        raise ValueError(
            f"image_size must be pixels such as 224, or (height, width), got {image_size!r}"
        )
    return size


def _imported(names: Iterable[tuple[str, str]]) -> tuple[type, ...]:
    """Return those of other libraries' classes whose modules are imported: no model has others."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if kind is not None)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _find_candidates(model: nn.Module, size: tuple[int, int]) -> list[_Candidate]:
    """Return all modules that could be replaced, in the order of execution."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    found: dict[nn.Module, _Candidate | None] = {}
    maps: list[tuple[str, tuple[int, int]]] = []  # convolutions so far and their outputs' sizes

    def look(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        candidate = _examine(module, tuple(names[module]), args, kwargs, output, maps)
        if isinstance(module, nn.Conv2d):
            maps.append((names[module][0], tuple(output.shape[2:])))
        known = found.get(module, candidate)
        # A layer that serves maps of several sizes has no kernel length.
        same = known is not None and candidate is not None and known.size == candidate.size
        found[module] = known if same else None

    with _watched(model, look):
        try:
            _run(model, size)
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} does not run on an image of {size[0]} x {size[1]} pixels "
                f"({type(error).__name__}: {error}); give an image_size that it takes, and a "
                "backbone rather than a whole detector"
            ) from error
    return [item for item in found.values() if item is not None and item.name]


@contextmanager
def _watched(model: nn.Module, hook: Callable) -> Iterator[None]:
    """Put every module into evaluation mode and a hook behind it, for a while.

    They are set one by one, because ``train()`` of many backbones does more than that.
    """
    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, _ in modes]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, size: tuple[int, int]) -> None:
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    if first is None:
        raise ValueError("there is no convolution in it")
    image = first.weight.new_zeros(1, first.in_channels, *size)
    with torch.no_grad():
        model(image)


def _examine(
    module: nn.Module,
    names: tuple[str, ...],
    args: tuple,
    kwargs: dict,
    output: Any,
    maps: list[tuple[str, tuple[int, int]]],
) -> _Candidate | None:
    """Return a candidate for this module, if a circular convolution can do what its call did."""
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape == output.shape):
        return None
    if isinstance(module, nn.Conv2d):
        channels = module.in_channels
        depthwise = module.groups == channels and module.kernel_size != (1, 1)
        plain = module.groups == 1 and module.kernel_size == (3, 3)
        if (depthwise or plain) and module.stride == (1, 1) and channels % 2 == 0:
            return _Candidate(names, module, "convolution", channels, tuple(x.shape[2:]))
    elif x.shape[-1] % 2 == 0 and x.dim() == 4 and isinstance(module, _imported(_WINDOW_BLOCK)):
        return _Candidate(names, module, "block", x.shape[3], tuple(x.shape[1:3]))
    elif x.shape[-1] % 2 == 0 and x.dim() == 3 and isinstance(module, _imported(_WINDOW_ATTENTION)):
        size = args[1] if len(args) > 1 else kwargs["hw_shape"]
        return _Candidate(names, module, "windows", x.shape[2], tuple(size))
    elif x.shape[-1] % 2 == 0 and x.dim() == 3 and isinstance(module, _imported(_TOKEN_ATTENTION)):
        source, size = maps[-1] if maps else ("", (0, 0))
        prefix = x.shape[1] - math.prod(size)
        options = [value for name, value in kwargs.items() if name != "identity"]
        alone = len(args) == 1 and not any(isinstance(value, Tensor) for value in options)
        shortcut = getattr(module, "v_shortcut", False) or not getattr(module, "batch_first", True)
        if source and alone and not shortcut and 0 <= prefix <= _MAX_PREFIX:
            return _Candidate(names, module, "tokens", x.shape[2], size, prefix, source)
    return None


def _group(candidates: Sequence[_Candidate]) -> list[list[_Candidate]]:
    """Return candidates of the same resolution and channels together, the finest first."""
    stages: dict[tuple, list[_Candidate]] = {}
    for item in candidates:
        key = (item.size, item.channels, item.kind, item.dense)
        stages.setdefault(key, []).append(item)
    return sorted(stages.values(), key=lambda stage: -math.prod(stage[0].size))


def _choose(stages: list[list[_Candidate]], rule: Rule | None) -> list[_Candidate]:
    """Return the candidates that a rule selects."""
    if rule is None:
        rule = DeepStages()
    elif isinstance(rule, Mapping):
        known = [field.name for field in fields(DeepStages)]
        if unknown := sorted(set(map(str, rule)) - set(known)):
            raise _illegal(f"rule has unknown keys {shorten(unknown)}; it takes {known}", stages)
        rule = DeepStages(**rule)
    if isinstance(rule, DeepStages):
        return list(_choose_stages(stages, rule))
    everything = [item for stage in stages for item in stage]
    if isinstance(rule, str):
        rule = [rule]
    if isinstance(rule, Sequence) and rule and all(isinstance(item, str) for item in rule):
        for pattern in rule:
            if not any(fnmatch.fnmatchcase(item.name, pattern) for item in everything):
                raise _illegal(f"the pattern {pattern!r} fits no replaceable module", stages)
        return [
            item
            for item in everything
            if any(fnmatch.fnmatchcase(item.name, pattern) for pattern in rule)
        ]
    if not callable(rule):
        raise _illegal(
            "rule must be a dict(stages=..., fraction=...), name patterns, or a function of name "
            f"and module, got {rule!r}",
            stages,
        )
    if chosen := [item for item in everything if rule(item.name, item.module)]:
        return chosen
    raise _illegal("the rule's function chooses no replaceable module", stages)


def _choose_stages(stages: list[list[_Candidate]], rule: DeepStages) -> Iterator[_Candidate]:
    count = len(stages)
    indices = range(count)[-2:] if rule.stages is None else rule.stages
    indices = indices if isinstance(indices, Sequence) else [indices]
    if not indices or not all(type(i) is int and -count <= i < count for i in indices):
        raise _illegal(
            f"stages must be indices from {-count} to {count - 1}, got {rule.stages!r}", stages
        )
    share = rule.fraction
    legal = isinstance(share, (int, float)) and not isinstance(share, bool) and 0 < share <= 1
    if share is not None and not legal:
        raise _illegal(f"fraction must be a number in (0, 1], or None, got {share!r}", stages)
    for index in sorted({i % count for i in indices}):
        stage = stages[index]
        papers = 1 / 2 if stage[0].dense else 1 / 3
        wanted = (papers if share is None else share) * len(stage)
        yield from stage[-max(math.ceil(wanted - 1e-6), 1) :]  # a third of nine is three


def _illegal(problem: str, stages: list[list[_Candidate]]) -> ValueError:
    """Return an error that lists what could have been chosen."""
    choice = "; ".join(
        f"stage {index} ({stage[0].size[0]} x {stage[0].size[1]}, {stage[0].channels} channels): "
        + ", ".join(item.name for item in stage)
        for index, stage in enumerate(stages)
    )
    return ValueError(f"{problem}. Replaceable are {choice}")
