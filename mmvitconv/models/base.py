"""What every backbone of mmvitconv promises, and what all pyramids of stages share."""

import os
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cached_property
from itertools import pairwise
from numbers import Integral, Real
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitconv.errors import CheckpointError
from mmvitconv.ops.memory_format import keep_memory_format
from mmvitconv.ops.recompute import recompute
from mmvitconv.ops.traced import as_one_node
from mmvitconv.ops.unused import with_zero_gradients
from mmvitconv.weights import load_backbone
from mmvitconv.weights.addresses import address_of
from mmvitconv.weights.match import is_comparing

ArchT = TypeVar("ArchT")


class Backbone(BaseModule, metaclass=ABCMeta):
    """Base of all backbones: checks, freezing, pretrained weights, activation checkpointing.

    A family builds its stages in ``__init__`` after calling this class's, and implements
    :meth:`forward_stages`, :meth:`stage_modules`, :meth:`is_optional_key` and
    :meth:`get_layer_depth`.

    Args:
        num_stages: Number of stages of the architecture.
        in_channels: Channels of the input image, at least 1.
        out_indices: Stages whose features are returned, finest first. Negative ones count from the
            end.
        frozen_stages: Stages ``0..frozen_stages`` and everything before them are frozen: no
            gradients, and evaluation mode. -1 freezes nothing.
        norm_eval: Keep all BatchNorm layers in evaluation mode while training.
        with_cp: Trade time for memory: recompute each block in the backward pass.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE, prefix=None)`` loads our checkpoints
            and the original authors' files; ``FILE`` alone means the same. Other initialisers are
            MMEngine's. :meth:`init_weights`, which MMEngine's runner calls, loads; until then, or
            until other weights are loaded, the backbone refuses to compute and to be saved.

    Raises:
        ValueError: An argument is outside its legal range.
    """

    unit = "stages"  # what out_indices and frozen_stages count

    def __init__(
        self,
        num_stages: int,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | str | os.PathLike | None = None,
    ) -> None:
        if isinstance(init_cfg, (str, os.PathLike)):
            init_cfg = {"type": "Pretrained", "checkpoint": os.fspath(init_cfg)}
        given = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
        if not all(isinstance(config, Mapping) for config in given):
            raise ValueError(
                f"init_cfg must be a file, an address, a dict or a list of dicts, got {init_cfg!r}"
            )
        super().__init__(init_cfg=init_cfg)
        self._awaits_weights = self._pretrained_cfg() is not None
        self._is_copy = False
        self._warn_without_file()
        check_positive(in_channels=in_channels)
        self.in_channels = int(in_channels)
        indices = normalise_indices("out_indices", out_indices, num_stages, self.unit)
        check_increasing("out_indices", indices, out_indices)
        self.out_indices = tuple(indices)
        if not is_integer(frozen_stages) or not -1 <= frozen_stages < num_stages:
            raise ValueError(
                f"frozen_stages must be an integer from -1 (nothing frozen) to {num_stages - 1}, "
                f"got {frozen_stages!r}"
            )
        self.frozen_stages = int(frozen_stages)
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        # Deeper stages reach no output: they are not built, so that DDP finds no unused parameter.
        self.num_stages = self.out_indices[-1] + 1

    @abstractmethod
    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Compute the features of ``out_indices`` for images (B, in_channels, H, W)."""

    @abstractmethod
    def stage_modules(self, stage: int) -> list[nn.Module]:
        """Return the modules of a stage: its patch embedding, blocks and output norm."""

    @abstractmethod
    def is_optional_key(self, key: str) -> bool:
        """Return whether checkpoints for other ``out_indices`` may lack this key, or have more."""

    @abstractmethod
    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the layer id of a parameter, for layer-wise learning-rate decay.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            The id (0 is nearest to the image) and the number of ids, the head's included.
        """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of ``out_indices``, finest first.

        Args:
            x: Images, shape (B, in_channels, H, W), B, H, W >= 1, floating point.

        Returns:
            Feature maps of shape (B, C_i, H_i, W_i), contiguous in the memory format of ``x``.

        Raises:
            ValueError: ``x`` has another shape, or no floating-point numbers.
            CheckpointError: The weights that ``init_cfg`` names are not loaded yet.
        """
        outs = self.forward_stages(self.check_image(x))
        return with_zero_gradients(outs, self.output_parts())

    def output_parts(self) -> Iterator[tuple[nn.Module, Collection[int]]]:
        """Yield modules that do not reach all outputs, and the positions of those they reach."""
        yield from ()

    def check_image(self, x: Tensor) -> Tensor:
        """Return images that can be computed with, or raise as :meth:`forward` says."""
        self._require_weights()
        return check_image(x, self.in_channels, type(self).__name__)

    def check_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Refuse weights that fit by name and shape, but cannot belong to this backbone.

        Args:
            state_dict: Weights in our layout, without prefix.
            source: Where they come from, for the message.

        Raises:
            CheckpointError: They are of another model.
        """

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """Return whether a checkpoint's entry loads although its shape differs from ours.

        Args:
            key: Its name in the backbone.
            shape: Its shape in the checkpoint.
            fine_tuning: Whether training starts from the weights; else they are tested, or a run
                is resumed.
        """
        return False

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Run a block, under activation checkpointing when ``with_cp`` asks for it."""
        return recompute(block, *args) if self.with_cp else block(*args)

    def init_weights(self) -> None:
        """Load pretrained weights (all of them or an error), or apply MMEngine's initialisers."""
        pretrained = self._pretrained_cfg()
        if pretrained is None:
            super().init_weights()
        elif not self.is_init:
            if not pretrained.get("checkpoint"):
                raise CheckpointError(
                    f"init_cfg of this {type(self).__name__} is of type Pretrained, but names no "
                    "checkpoint; give a file or an address, or init_cfg=None"
                )
            load_backbone(self, pretrained["checkpoint"], pretrained.get("prefix"))
            self._is_init = True

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return all weights; raise while they are random, but ``init_cfg`` names a file."""
        if not self._is_copy:  # MMEngine copies models before they load, and averages the copy
            self._require_weights()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if any(key.startswith(prefix) for key in state_dict):
            self._awaits_weights = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_awaits_weights": False, **state})  # earlier versions had none
        self._is_copy = True

    def _require_weights(self) -> None:
        """Raise while weights are random that should have been loaded; meta tensors hold none."""
        random = self._awaits_weights and not next(self.parameters()).is_meta
        if random and not is_comparing():
            pretrained = self._pretrained_cfg()  # a run that resumes takes it away
            if pretrained is not None:
                raise CheckpointError(
                    f"this {type(self).__name__} has random weights, but init_cfg names "
                    f"{pretrained.get('checkpoint')!r}: call init_weights() of the model first, as "
                    "MMEngine's runner does, or load other weights, or give init_cfg=None"
                )

    def _warn_without_file(self) -> None:
        """Name a file that is not there; the weights may still come from elsewhere."""
        file = (self._pretrained_cfg() or {}).get("checkpoint")
        if file and not address_of(file) and not Path(file).expanduser().exists():
            warnings.warn(
                f"there is no file {os.fspath(file)!r}, which init_cfg of this "
                f"{type(self).__name__} names: its weights have to come from another checkpoint",
                stacklevel=5,
            )

    def _pretrained_cfg(self) -> dict[str, Any] | None:
        configs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        for config in configs:
            if config is not None and config.get("type") in ("Pretrained", PretrainedInit):
                return config
        return None

    def train(self, mode: bool = True) -> "Backbone":
        """Switch the mode; frozen stages and, with ``norm_eval``, BatchNorms stay in evaluation."""
        super().train(mode)
        for stage in range(min(self.frozen_stages + 1, self.num_stages)):
            for module in self.stage_modules(stage):
                module.eval()
                module.requires_grad_(False)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class PyramidBackbone(Backbone):
    """A backbone of stages of blocks, which only has to say where its parts are.

    A stage embeds what the one before it gave, runs its blocks, and norms the result where it is an
    output. A family declares the names of these parts, builds modules of these names in
    ``__init__``, and has the loop over them, freezing, optional keys of checkpoints and layer ids
    from here. ``{stage}`` in a name stands for the stage, ``{before}`` and ``{number}`` for the
    stage minus and plus one, ``{block}`` for the block in its stage and ``{layer}`` for the number
    of blocks up to this one, itself included, in the whole network.

    Attributes:
        stem_names: Modules that run one after the other in front of everything, and parameters that
            belong to them. They are frozen with stage 0 and have layer id 0.
        embedding: The module in front of a stage's blocks; None if there is none. It has the layer
            id of the block behind it. Stage 0 has one where there are no
            ``stem_names``: it is the stem.
        block: A block.
        output_norm: The norm of a stage's output; None if there is none. A stage that is no output
            needs no such module.

    Hooks for what is different: :meth:`embed`, :meth:`run_stage`, :meth:`output` compute the three
    steps, :meth:`layer_names` says which parts of a stage form a layer, and :meth:`to_map`,
    :meth:`to_features` and :meth:`pool` what a classifier sees.

    Args:
        depths: Number of blocks of each stage of the architecture.
        channels: Channels of each stage's output.
        strides: Stride of each stage's output.
        **options: :class:`Backbone`'s other arguments.

    Attributes `out_channels` and `strides` are those of the outputs, `all_channels` and
    `all_strides` those of all stages of the architecture.

    Examples:
        A pyramid with modules ``stem``, ``merges.0``, ... in front of stages 1, 2, ..., blocks
        ``stages.0.0``, ... and output norms ``norm0``, ...::

            class MyNet(PyramidBackbone):
                stem_names = ("stem",)
                embedding = "merges.{before}"

                def __init__(self, arch="tiny", **options):
                    sizes = resolve_arch(arch, ARCHS, MyNetArch)
                    strides = [4 * 2**stage for stage in range(len(sizes.depths))]
                    super().__init__(sizes.depths, sizes.embed_dims, strides, **options)
                    ...  # modules for stages 0 to self.num_stages - 1
                    self.train()  # freezes what frozen_stages and norm_eval ask for
    """

    stem_names: tuple[str, ...] = ()
    embedding: str | None = None
    block: str = "stages.{stage}.{block}"
    output_norm: str | None = "norm{stage}"

    def __init__(
        self,
        depths: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__(num_stages=len(depths), **options)
        self.depths = tuple(depths)
        self.all_channels, self.all_strides = tuple(channels), tuple(strides)
        self.out_channels = tuple(channels[stage] for stage in self.out_indices)
        self.strides = tuple(strides[stage] for stage in self.out_indices)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Compute the features of ``out_indices``, stage by stage."""
        image, outs = x, []
        for stage in range(self.num_stages):
            x = self.run_stage(stage, self.embed(stage, x))
            if stage in self.out_indices:
                outs.append(keep_memory_format(self.output(stage, x), image))
        return outs

    def embed(self, stage: int, x: Any) -> Any:
        """Run the stem, or what is between two stages.

        Args:
            stage: The stage.
            x: Images, or what the stage before gave.

        Returns:
            What the first block takes.
        """
        for name in self._embedding_names(stage):
            x = self.get_submodule(name)(x)
        return x

    def run_stage(self, stage: int, x: Any) -> Any:
        """Run a stage's blocks, under activation checkpointing when ``with_cp`` asks for it."""
        for block in range(self.depths[stage]):
            x = self.run_block(self.get_submodule(self._block_name(stage, block)), x)
        return x

    def output(self, stage: int, x: Any) -> Tensor:
        """Make a stage's output of shape (B, C, H, W) from what its last block gave."""
        return self.to_map(x, self.norm_of(stage))

    def norm_of(self, stage: int) -> nn.Module | None:
        """Return the norm of a stage's output, if it has one."""
        return getattr(self, self._norm_name(stage), None)

    def output_parts(self) -> Iterator[tuple[nn.Module, Collection[int]]]:
        """Yield norms, which reach one output, and stages, which reach those behind them."""
        for index, stage in enumerate(self.out_indices):
            norm = self.norm_of(stage)
            if norm is not None:
                yield norm, (index,)
            for inner in range(self.out_indices[index - 1] + 1, stage + 1) if index else ():
                for module in self.stage_modules(inner):
                    if module is not norm:
                        yield module, range(index, len(self.out_indices))

    def to_map(self, x: Any, norm: nn.Module | None = None) -> Tensor:
        """Return what a stage's last block gave as a map (B, C, H, W), normed if ``norm`` is."""
        return x if norm is None else norm(x)

    def to_features(self, x: Any) -> Tensor:
        """Return what a classifier pools, from what the last block gave."""
        return self.output(self.num_stages - 1, x)

    def pool(self, features: Tensor) -> Tensor:
        """Make a vector (B, C) of what :meth:`to_features` gives."""
        return features.mean(dim=(2, 3))

    def layer_names(self, stage: int) -> list[list[str]]:
        """Name the parts of a stage, layer by layer of layer-wise learning-rate decay.

        Args:
            stage: Any stage of the architecture, built or not.

        Returns:
            The names of the first layer's modules, the second's, ...; without the stem's and the
            output norm's.
        """
        names = [[self._block_name(stage, block)] for block in range(self.depths[stage])]
        if stage > 0:
            names[0] += self._embedding_names(stage)
        return names

    def last_block(self, stage: int) -> str:
        """Name what the map of a stage comes from."""
        names = [name for layer in self.layer_names(stage) for name in layer]
        return [name for name in names if name not in self._embedding_names(stage)][-1]

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """Return what is in front of a stage's blocks, the blocks, and the output norm."""
        parent, _, last = self.block.rpartition(".")
        names = [name for layer in self.layer_names(stage) for name in layer]
        if last == "{block}":  # one module holds the stage's blocks and nothing else
            names = [parent.format(**_numbers(stage))]
        parts = [attrgetter(name)(self) for name in (*self._embedding_names(stage), *names)]
        parts.append(self.norm_of(stage))
        return [part for part in parts if isinstance(part, nn.Module)]

    def truncate(self, stage: int, keeps_norm: bool = True) -> None:
        """Drop all stages behind one, as if the backbone had been built for its output alone.

        Args:
            stage: The last that stays.
            keeps_norm: Whether it takes over the last output's norm, if that has as many channels.
        """
        channels = self.all_channels
        norm = self._modules.pop(self._norm_name(self.num_stages - 1), None)
        behind = [part for i in range(stage + 1, self.num_stages) for part in self.stage_modules(i)]
        names = {part: name for name, part in self.named_modules()}
        for part in reversed(behind):  # from the end: what is left of a list keeps its numbers
            parent, _, last = names[part].rpartition(".")
            del self.get_submodule(parent)._modules[last]
        if norm is not None and keeps_norm and channels[stage] == channels[self.num_stages - 1]:
            self.add_module(self._norm_name(stage), norm)
        self.num_stages, self.out_indices = stage + 1, (stage,)
        self.out_channels, self.strides = (channels[stage],), (self.all_strides[stage],)

    def train(self, mode: bool = True) -> "PyramidBackbone":
        """Switch the mode; parameters of the stem's own are frozen with stage 0."""
        super().train(mode)
        if self.frozen_stages >= 0:
            for part in map(self._parameters.get, self.stem_names):
                if part is not None:
                    part.requires_grad_(False)
        return self

    def is_optional_key(self, key: str) -> bool:
        """Return whether it is of an output norm, or of a stage behind the last output."""
        norms = [self._norm_name(stage) for stage in range(len(self.depths))]
        place = self._place(key)
        return key.partition(".")[0] in norms or (place is not None and place[1] >= self.num_stages)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the layer id of a parameter: 0 for the stem, then one for each block.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's own names, such as ``'backbone.'``.

        Returns:
            The id, the last one for output norms and everything outside the backbone; and the
            number of ids.
        """
        num_layers = sum(len(self.layer_names(stage)) for stage in range(self.num_stages)) + 2
        is_own = param_name.startswith(prefix)
        place = self._place(param_name.removeprefix(prefix)) if is_own else None
        return num_layers - 1 if place is None else place[0], num_layers

    def _embedding_names(self, stage: int) -> tuple[str, ...]:
        if stage == 0 and self.stem_names:
            return self.stem_names
        return (self.embedding.format(**_numbers(stage)),) if self.embedding else ()

    def _block_name(self, stage: int, block: int) -> str:
        layer = sum(self.depths[:stage]) + block + 1
        return self.block.format(block=block, layer=layer, **_numbers(stage))

    def _norm_name(self, stage: int) -> str:
        return (self.output_norm or "").format(**_numbers(stage))

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """The layer id and the stage of each part of the architecture, by name."""
        layers = [(0, self._embedding_names(0))]
        for stage in range(len(self.depths)):
            layers += [(stage, names) for names in self.layer_names(stage)]
        return {name: (i, stage) for i, (stage, names) in enumerate(layers) for name in names}

    def _place(self, key: str) -> tuple[int, int] | None:
        """The layer id and the stage of the innermost part that a parameter is in."""
        names = key.split(".")
        parts = (".".join(names[:end]) for end in range(len(names), 0, -1))
        return next((self._places[part] for part in parts if part in self._places), None)


def _numbers(stage: int) -> dict[str, int]:
    """What may stand in a part's name for the stage."""
    return {"stage": stage, "before": stage - 1, "number": stage + 1}


def is_integer(value: Any) -> bool:
    """Return whether it counts something; True and False do not, although Python says so."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def normalise_indices(name: str, given: Any, count: int, unit: str) -> list[int]:
    """Return what a sequence, or one number, chooses among ``count`` things.

    Args:
        name: Of the argument, for the message.
        given: Indices from 0 on, or from -1 downwards.
        count: How many there are.
        unit: What they are called, in the plural.

    Returns:
        Indices from 0 to ``count - 1``, in the given order.

    Raises:
        ValueError: There is none, or one that is no such index.
    """
    indices = [*given] if isinstance(given, Iterable) and getattr(given, "ndim", 1) else [given]
    if not indices or not all(is_integer(i) and -count <= i < count for i in indices):
        raise ValueError(
            f"{name} must be one or more of {unit} 0 to {count - 1} (or -{count} to -1), "
            f"got {given!r}"
        )
    return [int(index) % count for index in indices]


def check_increasing(name: str, indices: Sequence[int], given: Any) -> None:
    """Raise a ValueError unless each of the indices is larger than the one before it."""
    if any(a >= b for a, b in pairwise(indices)):
        raise ValueError(f"{name} must be in increasing order, each once, got {given!r}")


def resolve_arch(arch: str | Mapping, archs: Mapping[str, ArchT], kind: type[ArchT]) -> ArchT:
    """Return the architecture that a config names or describes.

    Args:
        arch: A name, or a dict of the fields of ``kind``.
        archs: The family's table.
        kind: The frozen dataclass of the family's sizes and switches.

    Raises:
        ValueError: Unknown name, unknown or missing fields, or fields that do not go together.
    """
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(
                f"arch={arch!r} is unknown; give one of {', '.join(archs)}, "
                f"or a dict of {kind.__name__}'s fields"
            )
        return archs[arch]
    if not isinstance(arch, Mapping):
        raise ValueError(f"arch must be a name or a dict, but got {type(arch).__name__}")
    legal = {field.name: field.default is MISSING for field in fields(kind)}
    unknown = sorted(set(arch) - set(legal))
    needed = sorted({name for name, is_needed in legal.items() if is_needed} - set(arch))
    if unknown or needed:
        raise ValueError(
            f"the arch dict has unknown entries {unknown} and lacks {needed}; "
            f"legal are {', '.join(legal)}"
        )
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in arch.items()})


@as_one_node
def check_image(x: Tensor, in_channels: int, name: str) -> Tensor:
    """Return images, or raise a ValueError that says what ``name`` takes."""
    is_tensor = isinstance(x, Tensor) and not x.is_nested and x.layout is torch.strided
    is_image = is_tensor and x.dim() == 4 and x.shape[1] == in_channels and 0 not in x.shape
    if not is_image or not x.is_floating_point():
        given = f"{tuple(x.shape)} of {x.dtype}" if is_tensor else _kind(x)
        raise ValueError(
            f"{name} takes a tensor of shape (B, {in_channels}, H, W) with B, H, W >= 1 and "
            f"floating-point numbers, but got {given}"
        )
    return x


def _kind(x: Any) -> str:
    """Say what something is that is no plain tensor."""
    if not isinstance(x, Tensor):
        return type(x).__name__
    return "a nested tensor" if x.is_nested else f"a tensor of layout {x.layout}"


def check_rate(name: str, rate: float) -> None:
    """Raise a ValueError unless ``rate`` is in [0, 1)."""
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {rate!r}")


def check_positive(**sizes: int) -> None:
    """Raise a ValueError unless all sizes are integers of at least 1."""
    for name, size in sizes.items():
        if not is_integer(size) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def check_stages(**values: Sequence[float]) -> None:
    """Raise a ValueError unless all have a positive number for each of the same stages."""
    if len({len(numbers) for numbers in values.values()}) != 1 or not all(values.values()):
        given = ", ".join(f"{name}={numbers}" for name, numbers in values.items())
        raise ValueError(f"{' and '.join(values)} must have one entry for each stage, got {given}")
    for name, numbers in values.items():
        if min(numbers) <= 0:
            raise ValueError(f"{name} must be positive, got {numbers}")


def check_integers(sizes: Any, names: Sequence[str], count: int, least: int = 1) -> None:
    """Check fields of an architecture that have a number for each stage.

    Args:
        sizes: The architecture.
        names: Names of the fields.
        count: How many numbers each must have.
        least: The smallest legal number.

    Raises:
        ValueError: A field has another length, or something else than such integers.
    """
    for name in names:
        values = getattr(sizes, name)
        if len(values) != count or any(not is_integer(v) or v < least for v in values):
            raise ValueError(f"{name} must be {count} integers of at least {least}, got {values!r}")
