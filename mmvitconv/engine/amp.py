"""Automatic mixed precision on machines without an accelerator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS as ENGINE_OPTIM_WRAPPERS
from torch import nn

from mmvitconv.errors import UserError


# Registered at the root: the scope mmvitconv has no registry of its own for optimizer wrappers.
@ENGINE_OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Bfloat16 autocast on the CPU; MMEngine's ``AmpOptimWrapper`` insists on an accelerator.

    Bfloat16 has the exponent range of float32, so no loss scaling takes place.

    Args:
        dtype: ``'bfloat16'``, the one reduced precision that PyTorch trains with on every CPU.
        loss_scale: Accepted so that a config for ``AmpOptimWrapper`` works unchanged; not used.
        **kwargs: Arguments of ``mmengine.optim.OptimWrapper``.

    Raises:
        UserError: For another ``dtype``.
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
        """Run the forward pass of ``model`` under bfloat16 autocast.

        Args:
            model: The model whose losses are computed inside the context.

        Yields:
            Nothing.
        """
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
