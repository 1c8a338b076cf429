"""One call of a model, as a benchmark times it: inference or a step of training."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["DTYPES", "LAYOUTS", "make_run", "random_tensor"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

LEARNING_RATE = 1e-5  # small: the weights stay what they are


def make_run(
    model: nn.Module, x: Tensor, dtype: torch.dtype, compiles: bool, trains: bool, device: str
) -> Callable[[], object]:
    """The function that is timed.

    Args:
        model: A backbone; gets into the mode of the pass.
        x: Images.
        dtype: Of autocast; float32 for none.
        compiles: Whether the first call compiles.
        trains: Whether it is a training step or inference.
        device: Device type.
    """
    module = model.train(trains)
    call = torch.compile(_with_own_code(module), dynamic=False) if compiles else module

    def forward() -> Any:
        if dtype is torch.float32:
            return call(x)
        with torch.autocast(device, dtype):
            return call(x)

    if not trains:

        def infer() -> Any:
            with torch.inference_mode():
                return forward()

        return infer
    return _training_step(module, forward, device, scales=dtype is torch.float16)


def _with_own_code(module: nn.Module) -> Callable[[Tensor], Any]:
    """A function that calls a module and shares its code with no other function.

    Compiled versions belong to code, and each call looks through the versions of its code: all
    models compiled under one forward would slow each other down.
    """

    def call(x: Tensor) -> Any:
        return module(x)

    code = call.__code__.replace()
    return types.FunctionType(code, call.__globals__, "call", None, call.__closure__)


def _training_step(
    model: nn.Module, forward: Callable[[], Any], device: str, scales: bool
) -> Callable[[], object]:
    """Forward, backward and optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device, enabled=scales)
    # Behind a norm the gradient of a plain sum is zero up to rounding, and arithmetic on such
    # denormal numbers is slow.
    factors: list[Tensor] = []

    def step() -> None:
        outs = forward()
        if not factors:
            factors.extend(
                random_tensor(out.shape, seed=1).to(out.device, out.dtype) / math.sqrt(out.numel())
                for out in outs
            )
        loss = sum((out * factor).sum() for out, factor in zip(outs, factors, strict=True))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()  # frees them while the others have their turn

    return step


def random_tensor(shape: Sequence[int], seed: int) -> Tensor:
    """The same normal numbers each time."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
