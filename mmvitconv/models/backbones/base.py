"""What every backbone of mmvitconv promises, in one place."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, fields
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmvitconv.weights import load_backbone

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
            and the original authors' files; other initialisers are MMEngine's.

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
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not _is_integer(in_channels) or in_channels < 1:
            raise ValueError(f"in_channels={in_channels!r} is illegal; give an integer from 1 on")
        self.in_channels = int(in_channels)
        self.out_indices = _normalise_out_indices(out_indices, num_stages, self.unit)
        if not _is_integer(frozen_stages) or not -1 <= frozen_stages < num_stages:
            raise ValueError(
                f"frozen_stages={frozen_stages!r} is illegal; give -1 (nothing frozen) "
                f"to {num_stages - 1}"
            )
        self.frozen_stages = int(frozen_stages)
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        # Deeper stages reach no output: they are not built, so that DDP finds no unused parameter.
        self.num_stages = self.out_indices[-1] + 1

    @abstractmethod
    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The features of ``out_indices`` for a checked input of shape (B, in_channels, H, W)."""

    @abstractmethod
    def stage_modules(self, stage: int) -> list[nn.Module]:
        """The modules that belong to a stage (its patch embedding, blocks and output norm)."""

    @abstractmethod
    def is_optional_key(self, key: str) -> bool:
        """Whether checkpoints for other ``out_indices`` may lack this key, or have it in excess."""

    @abstractmethod
    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """The layer id of a parameter, for layer-wise learning-rate decay.

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
        """
        is_image = x.dim() == 4 and x.shape[1] == self.in_channels and 0 not in x.shape
        if not is_image or not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} takes a tensor of shape (B, {self.in_channels}, H, W) with "
                f"B, H, W >= 1 and floating-point numbers, but got {tuple(x.shape)} of {x.dtype}"
            )
        return tuple(self.forward_stages(x))

    def check_weights(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Refuse weights that fit by name and shape, but cannot belong to this backbone.

        Args:
            state_dict: Weights in our layout, without prefix.
            source: Where they come from, for the message.

        Raises:
            CheckpointError: They are of another model.
        """

    def accepts_shape(self, key: str, shape: torch.Size, fine_tuning: bool) -> bool:
        """Whether a checkpoint's entry of another shape than ours loads all the same.

        Args:
            key: Its name in the backbone.
            shape: Its shape in the checkpoint.
            fine_tuning: Whether training starts from the weights; else they are tested, or a run
                is resumed.
        """
        return False

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Run a block, under activation checkpointing when ``with_cp`` asks for it."""
        if not self.with_cp or not torch.is_grad_enabled():
            return block(*args)
        norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
        if not norms or torch.compiler.is_compiling():
            return checkpoint(block, *args, use_reentrant=False)
        return checkpoint(
            block,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _frozen_statistics(norms)),
        )

    def init_weights(self) -> None:
        """Load pretrained weights (all of them or an error), or apply MMEngine's initialisers."""
        pretrained = self._pretrained_cfg()
        if pretrained is None:
            super().init_weights()
        elif not self.is_init:
            load_backbone(self, pretrained["checkpoint"], pretrained.get("prefix"))
            self._is_init = True

    def _pretrained_cfg(self) -> dict[str, Any] | None:
        configs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        for config in configs:
            if config is not None and config.get("type") == "Pretrained":
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


def _is_integer(value: Any) -> bool:
    """Whether it counts something; True and False do not, although Python says so."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _normalise_out_indices(
    out_indices: int | Sequence[int], num_stages: int, unit: str
) -> tuple[int, ...]:
    """Non-negative, increasing stage indices, or a ValueError that says what is legal."""
    given = tuple(out_indices) if isinstance(out_indices, Iterable) else (out_indices,)
    legal = f"{unit} 0 to {num_stages - 1} (or -{num_stages} to -1), in increasing order"
    if not given:
        raise ValueError(f"out_indices is empty; give one or more of {legal}")
    if any(not _is_integer(i) or not -num_stages <= i < num_stages for i in given):
        raise ValueError(f"out_indices={out_indices!r} is illegal; give {legal}")
    indices = tuple(int(i) % num_stages for i in given)
    if any(a >= b for a, b in pairwise(indices)):
        raise ValueError(f"out_indices={out_indices!r} is illegal; give {legal}")
    return indices


@contextmanager
def _frozen_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalise by the batch without a second update of the running statistics."""
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def resolve_arch(arch: str | Mapping, archs: Mapping[str, ArchT], kind: type[ArchT]) -> ArchT:
    """The architecture that a config names or describes.

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


def check_rate(name: str, rate: float) -> None:
    """Raise a ValueError unless ``rate`` is in [0, 1)."""
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f"{name}={rate!r} is illegal; give a number in [0, 1)")
