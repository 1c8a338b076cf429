"""Where the first value that is not finite came from, found by repeating a bad iteration.

:class:`ModuleTrace` watches the modules of a model while an iteration runs again;
:func:`explain_step` puts what it saw into a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

from mmvitconv.errors import shorten

__all__ = [
    "Iteration",
    "ModuleTrace",
    "any_bad",
    "bad_losses",
    "count_bad",
    "explain_step",
    "is_bad",
]

HOST = "cpu"
MAX_NAMES = 8  # files and parameters named in a message
INSERTED_NAMES = ("_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")


@dataclass
class Iteration:
    """What is kept of an iteration until its step; it and its epoch are counted from 1."""

    number: int
    epoch: int
    batch: Any
    random_states: tuple  # at its start
    totals: list[Tensor] = field(default_factory=list)  # the sums that were differentiated
    losses: dict[str, float] = field(default_factory=dict)  # those that are not finite


@dataclass(eq=False)
class ModuleCall:
    """One call of a module while an iteration is repeated."""

    name: str
    kind: str
    is_input_finite: bool
    is_output_gradient_finite: bool = True
    bad_gradient: tuple[int, str] | None = None  # when it returned it, and what that was

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})" if self.name else f"the model itself ({self.kind})"

    def is_around(self, other: ModuleCall) -> bool:
        """Tell whether another module lies inside this one."""
        outer = f"{self.name}." if self.name else ""
        return other.name != self.name and other.name.startswith(outer)


class ModuleTrace:
    """Which modules turn finite values into others, forward and backward.

    Attributes:
        forward: The first call whose output is bad although its input is finite, and its output.
        first_bad_input: The first call with bad values.
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
        """Return whether the loss or a gradient was not finite this time, too."""
        return bool(self.losses or self.backward)

    @property
    def backward(self) -> ModuleCall | None:
        """Return the first call that turned finite gradients into others."""
        origins = [
            call for call in self.calls if call.bad_gradient and call.is_output_gradient_finite
        ]
        # a module around another one returns the bad gradients of that one
        inner = [call for call in origins if not any(map(call.is_around, origins))]
        first = min(inner, key=lambda call: call.bad_gradient[0], default=None)
        return first or self.first_bad_output_gradient

    @classmethod
    @contextmanager
    def of(cls, model: nn.Module) -> Iterator[ModuleTrace]:
        """Watch a model inside the context; its forward and backward passes fill the trace."""
        trace = cls()
        with ExitStack() as handles:
            for name, module in model.named_modules():
                name = ".".join(part for part in name.split(".") if part not in INSERTED_NAMES)
                enter = partial(trace._enter, name)
                # each handle is a context manager that removes its hook
                handles.enter_context(
                    module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
                )
                handles.enter_context(module.register_forward_hook(trace._leave))
                for key, parameter in module.named_parameters(recurse=False):
                    if parameter.requires_grad:
                        hook = partial(trace._at_parameter, name, key)
                        handles.enter_context(parameter.register_hook(hook))
            yield trace

    def _enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Note a call of a module (a forward pre-hook)."""
        # before the module, which may change its input in place
        tensors = list(_inside((args, kwargs), Tensor))
        call = ModuleCall(name, type(module).__name__, not any(map(is_bad, tensors)))
        if not call.is_input_finite and self.first_bad_input is None:
            self.first_bad_input = call
        self.calls.append(call)
        self.open.setdefault(module, []).append(call)
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(partial(self._returned, [call], "for its input"))

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Look at what a module returned (a forward hook)."""
        call = self.open[module].pop()
        for tensor in _inside(output, Tensor):
            if self.forward is None and call.is_input_finite and is_bad(tensor):
                self.forward = call, tensor.detach()
            if tensor.requires_grad:
                tensor.register_hook(partial(self._at_output, call))

    def _at_output(self, call: ModuleCall, gradient: Tensor) -> None:
        """Look at a gradient that arrived at an output of a call."""
        self.time += 1
        if is_bad(gradient):
            call.is_output_gradient_finite = False
            self.first_bad_output_gradient = self.first_bad_output_gradient or call

    def _at_parameter(self, name: str, key: str, gradient: Tensor) -> None:
        """Look at the gradient of a parameter."""
        # a module that is never called itself lends its parameters to one around it
        while not (calls := [call for call in self.calls if call.name == name]) and name:
            name = name.rpartition(".")[0]
        if not all(call.is_output_gradient_finite for call in calls):
            calls = []
        self._returned(calls, f"for its parameter {key}", gradient)

    def _returned(self, calls: Sequence[ModuleCall], what: str, gradient: Tensor) -> None:
        """Note a gradient that calls have computed."""
        self.time += 1
        if is_bad(gradient):
            for call in calls:
                if call.bad_gradient is None:
                    call.bad_gradient = self.time, f"{what}: {count_bad(gradient)}"


def explain_step(
    iterations: Sequence[Iteration],
    trace: ModuleTrace | None,
    facts: Sequence[str],
    already_bad: Sequence[str],
    failure: str,
) -> str:
    """Put what is known about a bad step into words.

    Args:
        iterations: The iteration with the trouble, or all of the step where none stands out.
        trace: Of its repetition, None without any.
        facts: What the check in front of the step found.
        already_bad: Parameters and buffers that were not finite before.
        failure: Why the step could not be repeated, '' if it could.

    Returns:
        The facts, separated by semicolons, without a final dot.
    """
    losses = iterations[0].losses or (trace.losses if trace else {})
    files = [name for iteration in iterations for name in _files(iteration.batch)]
    parts = []
    if losses:
        entries = {name: value for name, value in losses.items() if name != "loss"} or losses
        listed = shorten([f"{name}={value:g}" for name, value in entries.items()], MAX_NAMES)
        parts.append(f"the loss is not finite ({listed})")
    elif trace is not None and trace.shows_trouble:
        parts.append("the gradients are not finite, the loss is")
    else:
        parts += facts
    if already_bad:
        parts.append(
            f"not finite before this iteration already: {shorten(list(already_bad), MAX_NAMES)} "
            "(go on from an earlier checkpoint)"
        )
    elif bad_samples := _bad_samples(iterations[0].batch, files):
        parts.append(f"the data themselves are not finite: {shorten(bad_samples, MAX_NAMES)}")
    elif failure:
        parts.append(f"the iteration could not be repeated to find the module ({failure})")
    else:
        parts += _origin(trace, files)
    parts.append(f"files: {shorten(files, MAX_NAMES)}" if files else "the batch names no files")
    return "; ".join(parts)


def _origin(trace: ModuleTrace | None, files: list[str]) -> list[str]:
    """Say which module a trace names as the first."""
    trace = trace or ModuleTrace()
    if trace.forward and trace.losses:
        # with a finite loss the value was masked, as it may be
        call, output = trace.forward
        parts = [
            f"the first value that is not finite is in the output of {call}, whose input was "
            f"finite: {count_bad(output)}"
        ]
        if output.ndim and len(files) == len(output):
            rows = [file for file, row in zip(files, output, strict=True) if is_bad(row)]
            if 0 < len(rows) < len(files):
                parts.append(f"it is there for files: {shorten(rows, MAX_NAMES)}")
        return parts
    if call := trace.backward:
        if call.bad_gradient and call.is_output_gradient_finite:
            return [
                f"the first gradient that is not finite is one that {call} computes "
                f"{call.bad_gradient[1]}; what arrived at its output was finite"
            ]
        return [
            f"the first gradient that is not finite is the one that arrives at the output of "
            f"{call}: the loss, or an operation between it and this module, produces it"
        ]
    if trace.losses and trace.first_bad_input:
        return [f"{trace.first_bad_input} was called with values that are not finite"]
    return [
        "it did not happen again when the iteration was repeated, so an operation is not "
        "deterministic or the machine is faulty"
    ]


def _inside(value: Any, *kinds: type) -> Iterator[Any]:
    """Yield what nested containers hold of some kinds, in order."""
    if isinstance(value, kinds):
        yield value
    elif isinstance(value, (dict, BaseDataElement)):
        yield from _inside(list(value.values()), *kinds)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _inside(item, *kinds)
    elif isinstance(getattr(value, "tensor", None), kinds):  # mmdet's boxes
        yield value.tensor


def _files(batch: Any) -> list[str]:
    """Return the image file of each sample, where the batch names them."""
    files = [str(sample.get("img_path", "?")) for sample in _inside(batch, BaseDataElement)]
    if not files and isinstance(batch, dict) and "img_path" in batch:
        paths = batch["img_path"]
        files = [str(path) for path in (paths if isinstance(paths, (list, tuple)) else [paths])]
    return files if any(file != "?" for file in files) else []


def _bad_samples(batch: Any, files: Sequence[str]) -> list[str]:
    """Name the samples of a batch that hold values that are not finite, and where they do."""
    inputs = batch.get("inputs") if isinstance(batch, dict) else batch
    rows = list(inputs) if isinstance(inputs, (list, tuple, Tensor)) else []
    samples = _inside(batch, BaseDataElement)
    return [
        f"{what} of {files[row] if row < len(files) else f'sample {row}'}"
        for what, values in (("the image", rows), ("the annotations", samples))
        for row, value in enumerate(values)
        if any(map(is_bad, _inside(value, Tensor)))
    ]


def bad_losses(outputs: Any) -> dict[str, float]:
    """Return the entries of the loss that are not finite.

    Args:
        outputs: What ``train_step`` returns; as in MMEngine, a name with "loss" is one.

    Returns:
        Their means by name.
    """
    return {
        name: float(value.detach().float().mean())
        for name, value in (outputs.items() if isinstance(outputs, dict) else ())
        if "loss" in name and isinstance(value, Tensor) and is_bad(value)
    }


def any_bad(tensors: Sequence[Tensor], device: torch.device | str = "cpu") -> Tensor:
    """Look for values that are not finite in many tensors at once, without waiting for the device.

    Args:
        tensors: Floating-point tensors of any devices and dtypes; sparse ones too.
        device: Where the answer is wanted.

    Returns:
        A boolean tensor without dimensions.
    """
    bad = torch.zeros((), dtype=torch.bool, device=device)
    values = [tensor._values() if tensor.is_sparse else tensor for tensor in tensors]
    groups = _group_tensors_by_device_and_dtype([values]) if values else {}
    for (place, dtype), ((group,), _) in groups.items():
        if dtype.is_complex:
            group = [torch.view_as_real(value) for value in group]
        if place.type == HOST:  # where the other norm takes 100 times as long as this one
            # read one by one, which is faster than stacking hundreds of them
            if math.isfinite(sum(norm.item() for norm in torch._foreach_norm(group))):
                continue
            # squares may overflow where the values do not
            group = [torch.stack(torch.aminmax(value)) for value in group if value.numel()]
            extremes = torch.stack(group)
        elif group := [value for value in group if value.numel()]:
            # the largest magnitude is finite when all values are
            extremes = torch.stack(torch._foreach_norm(group, float("inf")))
        else:
            continue
        bad = bad | ~torch.isfinite(extremes).all().to(device)
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
