"""Automatic mixed precision: on the CPU, and without rounding boxes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmvitconv.engine.modules import unwrap_model
from mmvitconv.errors import UserError
from mmvitconv.registry import HOOKS, OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Bfloat16 autocast on the CPU; MMEngine's ``AmpOptimWrapper`` insists on an accelerator.

    Bfloat16 has the exponent range of float32, so no loss scaling takes place.

    Args:
        dtype: ``'bfloat16'``, the one reduced precision that PyTorch trains with on every CPU.
        loss_scale: Accepted so that a config for ``AmpOptimWrapper`` works unchanged; not used.
        **kwargs: Arguments of ``mmengine.optim.OptimWrapper``.

    Raises:
        UserError: For another ``dtype``.

    Examples:
        >>> optim_wrapper = dict(type="mmvitconv.CPUAmpOptimWrapper", optimizer=dict(type="AdamW"))
    """

    def __init__(
        self,
        dtype: str | torch.dtype | None = "bfloat16",
        loss_scale: str | float | dict = "dynamic",
        **kwargs,
    ) -> None:
        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise UserError(
                f"mixed precision on the CPU works with dtype='bfloat16' only, got {dtype!r}"
            )
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under bfloat16 autocast."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield


@HOOKS.register_module()
class Float32BoxesHook(Hook):
    """Keeps the box coordinates of mmdet's detectors in float32 under mixed precision.

    mmdet gives anchors the type of the head's scores, and RoIs (with the index of their image) that
    of the feature maps. Bfloat16 has 8 bits of precision: a coordinate near 1000 moves in steps of
    4 pixels, one near 1300 in steps of 8. So the outputs of anchor-based and point-based heads, and
    of the neck (without one: the backbone) in front of a ``roi_head``, become float32. Layers still
    compute in the reduced precision. State-dict keys stay; other models are left alone.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.Float32BoxesHook")]
    """

    def __init__(self) -> None:
        self.is_attached = False

    def before_run(self, runner: Runner) -> None:
        """Attach the casts to the model, once."""
        if self.is_attached:
            return
        self.is_attached = True
        for module in unwrap_model(runner.model).modules():
            if hasattr(module, "prior_generator"):
                module.register_forward_hook(_cast_outputs)
            if hasattr(module, "roi_head"):
                source = getattr(module, "neck", None) or module.backbone
                source.register_forward_hook(_cast_outputs)


def _cast_outputs(module: nn.Module, inputs: tuple, outputs: Any) -> Any:
    """Return nested lists and tuples with their floating-point tensors in float32."""
    if isinstance(outputs, Tensor) and outputs.is_floating_point():
        return outputs.float()
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(_cast_outputs(module, inputs, item) for item in outputs)
    return outputs
