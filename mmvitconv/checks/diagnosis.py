"""Finding values that are not finite, and the module of a model that made the first of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


class ModuleTrace:
    """Which modules turn finite values into others, forward and backward.

    Attributes:
        forward: The first module whose output is bad although its input is finite, and its output.
        first_bad_input: The first module that was called with bad values.
        losses: The entries of the loss that are not finite.
    """

    def __init__(self) -> None:
        self.forward: tuple[ModuleCall, Tensor] | None = None
        self.first_bad_input: ModuleCall | None = None
        self.first_bad_output_gradient: ModuleCall | None = None
        self.losses: dict[str, float] = {}
        self.calls: list[ModuleCall] = []
        self.open: dict[nn.Module, list[ModuleCall]] = {}
        self.time = 0

    @property
    def shows_trouble(self) -> bool:
        """Whether the loss or a gradient was not finite, this time too."""
        return bool(self.losses or self.backward)

    @property
    def backward(self) -> ModuleCall | None:
        """The first call with finite gradients at its outputs that returned others."""
        origins = [
            call for call in self.calls if call.bad_gradient and call.is_output_gradient_finite
        ]
        # a module around another one returns the bad gradients of that one
        inner = [
            call
            for call in origins
            if not any(_is_inside(other.name, call.name) for other in origins)
        ]
        first = min(inner, key=lambda call: call.bad_gradient[0], default=None)
        return first or self.first_bad_output_gradient

    @classmethod
    @contextmanager
    def of(cls, model: nn.Module) -> Iterator[ModuleTrace]:
        """Watch a model inside the context.

        Args:
            model: The model.

        Yields:
            The trace, filled by the forward and backward passes inside.
        """
        trace = cls()
        with ExitStack() as handles:
            for name, module in model.named_modules():
                name = _plain_name(name)
                for handle in (
                    module.register_forward_pre_hook(
                        partial(trace._enter, name), prepend=True, with_kwargs=True
                    ),
                    module.register_forward_hook(trace._leave),
                    *(
                        parameter.register_hook(partial(trace._at_parameter, module, name, key))
                        for key, parameter in module.named_parameters(recurse=False)
                        if parameter.requires_grad
                    ),
                ):
                    handles.callback(handle.remove)
            yield trace

    def _enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A forward pre-hook."""
        # before the module, which may change its input in place
        tensors = list(find_tensors((args, kwargs)))
        call = ModuleCall(name, type(module).__name__, not any(map(is_bad, tensors)))
        if not call.is_input_finite and self.first_bad_input is None:
            self.first_bad_input = call
        self.calls.append(call)
        self.open.setdefault(module, []).append(call)
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(partial(self._at_input, call))

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """A forward hook."""
        call = self.open[module].pop()
        for tensor in find_tensors(output):
            if self.forward is None and call.is_input_finite and is_bad(tensor):
                self.forward = call, tensor.detach()
            if tensor.requires_grad:
                tensor.register_hook(partial(self._at_output, call))

    def _at_output(self, call: ModuleCall, gradient: Tensor) -> None:
        """A hook on an output of a call."""
        self.time += 1
        if is_bad(gradient):
            call.is_output_gradient_finite = False
            self.first_bad_output_gradient = self.first_bad_output_gradient or call

    def _at_input(self, call: ModuleCall, gradient: Tensor) -> None:
        """A hook on an input of a call."""
        self.time += 1
        if call.bad_gradient is None and is_bad(gradient):
            call.bad_gradient = self.time, f"for its input: {count_bad(gradient)}"

    def _at_parameter(self, module: nn.Module, name: str, key: str, gradient: Tensor) -> None:
        """A hook on a parameter."""
        self.time += 1
        if not is_bad(gradient):
            return
        # a module that is never called itself lends its parameters to one around it
        calls = [call for call in self.calls if call.name == name]
        while not calls and name:
            name = name.rpartition(".")[0]
            calls = [call for call in self.calls if call.name == name]
        if all(call.is_output_gradient_finite for call in calls):
            for call in calls:
                if call.bad_gradient is None:
                    what = f"for its parameter {key}: {count_bad(gradient)}"
                    call.bad_gradient = self.time, what


@dataclass(eq=False)
class ModuleCall:
    """One call of a module while an iteration is repeated.

    Attributes:
        name: Dotted name of the module.
        kind: Class of the module.
        is_input_finite: All its inputs were finite.
        is_output_gradient_finite: All gradients that arrived at its outputs were.
        bad_gradient: What it returned that was not, and when.
    """

    name: str
    kind: str
    is_input_finite: bool
    is_output_gradient_finite: bool = True
    bad_gradient: tuple[int, str] | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})" if self.name else f"the model itself ({self.kind})"


def any_bad(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Look for values that are not finite in many tensors at once, without waiting for the device.

    Args:
        tensors: Floating-point tensors of any devices and dtypes; sparse ones too.
        device: Where the answer is wanted.

    Returns:
        A boolean tensor without dimensions.
    """
    groups: dict[tuple, list[Tensor]] = {}
    for tensor in tensors:
        values = tensor._values() if tensor.is_sparse else tensor
        if values.numel():
            groups.setdefault((values.device, values.dtype), []).append(values)
    bad = torch.zeros((), dtype=torch.bool, device=device)
    for group in groups.values():
        # the largest magnitude, unlike a sum of squares, is finite when all values are
        largest = torch.stack(torch._foreach_norm(group, float("inf")))
        bad = bad | ~torch.isfinite(largest).all().to(device)
    return bad


def is_bad(tensor: Tensor | None) -> bool:
    """Tell whether a tensor holds a value that is not finite.

    Args:
        tensor: A tensor of any kind, or None.

    Returns:
        False for None, whole numbers and tensors without data.
    """
    if tensor is None or tensor.is_meta:
        return False
    values = tensor.detach()
    values = values._values() if values.is_sparse else values
    if not (values.is_floating_point() or values.is_complex()):
        return False
    return not bool(torch.isfinite(values).all())


def count_bad(tensor: Tensor) -> str:
    """Say how many values are not finite.

    Args:
        tensor: A floating-point tensor.

    Returns:
        For example ``'3 NaN and 1 infinite of 64 values'``.
    """
    nan, infinite = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    counts = [f"{count} {word}" for count, word in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(counts)} of {tensor.numel()} values"


def find_tensors(value: Any) -> Iterator[Tensor]:
    """Find all tensors in what modules take and return.

    Args:
        value: Nested containers, data samples, boxes, tensors and anything else.

    Yields:
        The tensors, in order.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, BaseDataElement)):
        yield from find_tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_tensors(item)
    elif isinstance(getattr(value, "tensor", None), Tensor):  # mmdet's boxes
        yield value.tensor


def _is_inside(inner: str, outer: str) -> bool:
    """Whether a module's name lies inside another's."""
    return inner != outer and (outer == "" or inner.startswith(f"{outer}."))


def _plain_name(name: str) -> str:
    """A module's name without what wrappers put in."""
    inserted = ("_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")
    return ".".join(part for part in name.split(".") if part not in inserted)
