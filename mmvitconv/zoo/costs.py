"""Multiply-adds (MACs) and memory of any module, counted operator by operator while it runs.

The counter is :class:`torch.utils.flop_counter.FlopCounterMode`. This module adds the formulas that
torch lacks, splits the counts into two columns, and reports what has no formula.

The rule
    One multiplication followed by one addition is one MAC. Convolutions (grouped, transposed,
    deformable), matrix products of every kind (so einsum too), scaled dot-product attention and
    FFTs count. Element-wise arithmetic, bias, norms, activations, softmax, reductions, pooling,
    interpolation, RoIAlign and data movement are free.

    * Attention counts q.k and attention.v in full, masked or not, whichever kernel computes it.
    * A complex FFT of length n is ``5 n log2 n`` real operations, a real one half of that (the
      convention of FFTW's benchmark), and two operations are one MAC. n is the product of the
      transformed sides; a real transform counts the length of the real side.
    * A product of complex matrices is four real products.

Two columns
    ``layers`` are products with something that does not depend on the input: parameters, buffers,
    slices, casts and copies of them, and whatever is computed from these alone (folded norms,
    standardised or interpolated kernels). These are the "conv + linear" MACs of the usual tables,
    also where a layer is written functionally. ``products`` are the rest: both operands depend on
    the input (attention, similarities, outer products, kernels predicted from the input), and every
    scaled dot-product attention and FFT. Tensors that a module keeps without registering them count
    as input.

An operator that is neither counted nor known to be free is reported as uncounted. A custom operator
gets its formula through :func:`torch.utils.flop_counter.register_flop_formula`.
"""

from __future__ import annotations

import copy
import math
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mmvitconv.zoo.free_operators import FREE_OPERATORS

__all__ = ["Complexity", "Macs", "count_complexity", "count_image", "peak_memory"]


class Macs(NamedTuple):
    """Multiply-adds in two columns; ``+`` and ``sum`` add column by column."""

    layers: int = 0  # products with weights (convolutions and linear layers)
    products: int = 0  # products between activations (attention, similarities, FFT)

    @property
    def total(self) -> int:
        """Both columns together."""
        return self.layers + self.products

    def __add__(self, other: Any) -> Macs:
        """Add another cost, or the 0 that sums start with."""
        layers, products = other or (0, 0)
        return Macs(self.layers + layers, self.products + products)

    __radd__ = __add__


@dataclass(frozen=True)
class Complexity:
    """What one forward pass of a module costs."""

    params: int  # shared ones once, buffers not
    macs: Macs  # of the whole module
    by_module: Mapping[str, Macs]  # of each submodule that has any, with its children, by its name
    by_operator: Mapping[str, Macs]  # by names as 'aten.convolution'
    uncounted: Mapping[str, int]  # calls of operators that do arithmetic but have no formula


def count_complexity(
    module: nn.Module, inputs: Tensor | tuple[Any, ...] | dict[str, Any]
) -> Complexity:
    """Count parameters and multiply-adds of one forward pass (evaluation mode, no gradients).

    The module must be on the device of its inputs; ``'meta'`` costs neither memory nor time if the
    module's control flow does not look at values. The modules' modes are restored afterwards.

    Args:
        module: The module to run.
        inputs: The tensor, the positional arguments or the keyword arguments of ``module``.

    Returns:
        The counts, for exactly these inputs (so for the whole batch).

    Examples:
        >>> count_complexity(nn.Linear(3, 4), torch.ones(2, 3)).macs
        Macs(layers=24, products=0)
    """
    from torch.utils.flop_counter import FlopCounterMode, flop_registry  # imports triton

    args, kwargs = (inputs,), {}
    if isinstance(inputs, dict):
        args, kwargs = (), inputs
    elif not isinstance(inputs, Tensor):
        args = inputs
    formulas = flop_registry | _missing_formulas()
    constants = _Constants(module, formulas.keys())
    columns = {packet: partial(_split, packet, formulas[packet], constants) for packet in formulas}
    for function in columns.values():
        function._get_raw = True  # formulas look at tensors, not at shapes
    with (
        _evaluation_mode(module),
        _decomposed_attention_layers(),
        torch.no_grad(),
        constants,
        FlopCounterMode(display=False, custom_mapping=columns) as counter,
    ):
        module(*args, **kwargs)
    counts = counter.get_flop_counts()
    by_operator: dict[str, Macs] = {}
    for packet, macs in counts.get("Global", {}).items():
        name = _base_name(str(packet))
        by_operator[name] = macs + by_operator.get(name, Macs())
    root = type(module).__name__
    by_called = {
        name.removeprefix(f"{root}."): sum(costs.values(), Macs()) for name, costs in counts.items()
    }
    by_module = {name: _cost_of(name, child, by_called) for name, child in module.named_modules()}
    return Complexity(
        params=sum(parameter.numel() for parameter in module.parameters()),
        macs=sum(by_operator.values(), Macs()),
        by_module={name: macs for name, macs in by_module.items() if name and macs.total},
        by_operator=by_operator,
        uncounted=dict(constants.uncounted),
    )


def count_image(module: nn.Module, channels: int, shape: Sequence[int]) -> Complexity:
    """Count parameters and multiply-adds for one image, without memory where that can be done.

    Args:
        module: Takes (1, channels, height, width); it stays as it is.
        channels: Of the image.
        shape: Its height and width in pixels.
    """
    try:
        meta = copy.deepcopy(module).to("meta")
        return count_complexity(meta, torch.empty(1, channels, *shape, device="meta"))
    except Exception:  # its control flow looks at values
        device = next(module.parameters()).device
        return count_complexity(module, torch.zeros(1, channels, *shape, device=device))


def _cost_of(name: str, module: nn.Module, by_called: Mapping[str, Macs]) -> Macs:
    """Return what a module costs: as counted, or its children's sum where it was not called.

    Lists of modules are never called, and mm* models call ``head.forward`` directly.
    """
    if name in by_called:
        return by_called[name]
    children = module.named_children()
    return sum((_cost_of(f"{name}.{key}", child, by_called) for key, child in children), Macs())


# Formulas -----------------------------------------------------------------------------------------


def _missing_formulas() -> dict[Any, Callable[..., float]]:
    """Return formulas in FLOPs (two per MAC) that torch lacks, by operator."""
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten

    def fft(operations: float, x: Tensor, dims: list[int], *_: Any, out_val: Tensor) -> float:
        real = x if out_val.is_complex() else out_val  # whose sides are the real ones
        points = math.prod(real.shape[dim] for dim in dims)
        return real.numel() * operations * math.log2(points)

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
        return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])

    def deformed(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
        # weight (out, in / groups, kh, kw); sampling the input is interpolation, so free
        return 2 * out_val.numel() * weight[0].numel()

    formulas = {
        aten.mv: lambda matrix, *_, out_val: 2 * matrix.numel(),
        aten.addmv: lambda x, matrix, *_, out_val, **__: 2 * matrix.numel(),
        aten.dot: lambda x, *_, out_val: 2 * x.numel(),
        aten.vdot: lambda x, *_, out_val: 2 * x.numel(),
        aten.addr: lambda x, first, second, out_val, **_: 2 * first.numel() * second.numel(),
        aten.addbmm: lambda x, a, b, out_val, **_: 2 * a.numel() * b.shape[-1],
        aten._cdist_forward: lambda x, *_, out_val: 2 * out_val.numel() * x.shape[-1],
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_fused_attention_overrideable: attention,
        aten._fft_c2c: partial(fft, 5),
        aten._fft_r2c: partial(fft, 2.5),
        aten._fft_c2r: partial(fft, 2.5),
    }
    in_place = ("addmm", "baddbmm", "addmv", "addr", "addbmm")
    known = flop_registry | formulas
    formulas |= {getattr(aten, f"{name}_"): known[getattr(aten, name)] for name in in_place}
    if "torchvision" in sys.modules:
        formulas[torch.ops.torchvision.deform_conv2d] = deformed
    return formulas


# Where the two factors of a product stand among the arguments. An operator that is counted but is
# not here (attention, FFT) belongs to ``products`` whatever its operands are.
_FACTORS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "addbmm", "addr"), (1, 2)),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_scaled_mm", "_cdist_forward"), (0, 1)),
    **dict.fromkeys(("convolution", "_convolution", "cudnn_convolution"), (0, 1)),
    **dict.fromkeys(("convolution_overrideable", "_slow_conv2d_forward", "deform_conv2d"), (0, 1)),
}


def _split(
    packet: Any,
    formula: Callable[..., float],
    constants: _Constants,
    *args: Any,
    out_val: Any,
    **kwargs: Any,
) -> Macs:
    """Return the cost of one call in the column that it belongs to."""
    name = _base_name(str(packet)).rpartition(".")[2]
    macs = round(formula(*args, out_val=out_val, **kwargs) / 2)
    if isinstance(out_val, Tensor) and out_val.is_complex() and not name.startswith("_fft"):
        macs *= 4  # the rule of the FFT is about complex numbers already
    is_layer = any(args[position] in constants for position in _FACTORS.get(name, ()))
    return Macs(layers=macs) if is_layer else Macs(products=macs)


def _base_name(name: str) -> str:
    """Return an operator's name without the underscore of its in-place form."""
    return name if name.endswith("__") else name.removesuffix("_")


def _is_free(operator: torch._ops.OpOverload, tensors: list[Tensor]) -> bool:
    if not tensors:  # factories: nothing to multiply
        return True
    returned_views = (
        value.alias_info is not None and not value.alias_info.is_write
        for value in operator._schema.returns
    )
    name = _base_name(operator._overloadpacket.__name__)
    if any(returned_views) or name in FREE_OPERATORS:
        return True
    # in-place forms lack the tags of the operator that they are a form of
    packet = getattr(getattr(torch.ops, operator.namespace), name, operator._overloadpacket)
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    tags = {tag for overload in (operator, *overloads) for tag in overload.tags}
    free = {torch.Tag.pointwise, torch.Tag.view_copy, getattr(torch.Tag, "reduction", None)}
    return not tags.isdisjoint(free)


# Running ------------------------------------------------------------------------------------------


def _storage(value: Any) -> torch.UntypedStorage | None:
    """Return where a tensor is; sparse ones are nowhere, and oneDNN's packed ones do not say."""
    is_plain = isinstance(value, Tensor) and value.layout is torch.strided
    return value.untyped_storage() if is_plain else None


class _Constants(TorchDispatchMode):
    """Follows the storages that the input has no influence on, and notes uncounted operators.

    The storages are held, so that no address is given to another tensor; there are few of them.
    """

    def __init__(self, module: nn.Module, counted: Any) -> None:
        super().__init__()
        self.uncounted: Counter[str] = Counter()
        self._counted = counted
        self._storages: dict[int, torch.UntypedStorage] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            self._add(tensor)

    def __contains__(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator; what it makes of constants only is constant."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        packet = func._overloadpacket
        if packet not in self._counted and not _is_free(func, tensors):
            self.uncounted[_base_name(str(packet))] += 1
        if all(tensor in self for tensor in tensors):
            for value in tree_iter(out):
                self._add(value)
        elif func._schema.is_mutable:  # an activation is written into it
            names = [argument.name for argument in func._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            for argument in func._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for value in tree_iter(given.get(argument.name)):
                        self._discard(value)
        return out

    def _add(self, value: Any) -> None:
        if (storage := _storage(value)) is not None:
            self._storages[storage._cdata] = storage

    def _discard(self, value: Any) -> None:
        if (storage := _storage(value)) is not None:
            self._storages.pop(storage._cdata, None)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode; parameters need no gradients, which torch's tracker would listen to."""
    modes = {child: child.training for child in module.modules()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training
        for parameter in trained:
            parameter.requires_grad_()


@contextmanager
def _decomposed_attention_layers() -> Iterator[None]:
    """Run nn.MultiheadAttention as linear layers and attention instead of one opaque operator."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


# Memory -------------------------------------------------------------------------------------------


def peak_memory(function: Callable[[], object], device: str = "cpu") -> int:
    """Return the bytes that a function needs at most, beyond what exists before it runs.

    On a GPU it is what the allocator says. Elsewhere the living storages are counted that operators
    returned, without scratch space inside an operator: the same number on any machine.

    Args:
        function: What to run, once; it may call ``backward()``.
        device: Device type.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _LiveStorages() as storages:
        function()
    return storages.peak


class _LiveStorages(TorchDispatchMode):
    """Follows the storages that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}  # of all that are alive; those from before cost nothing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what is new."""
        self._note((args, kwargs), counts=False)
        # Under inference mode composite operators (linear, attention) arrive whole.
        with self:
            out = func.decompose(*args, **(kwargs or {}))
        if out is NotImplemented:
            out = func(*args, **(kwargs or {}))
            self._note(out, counts=True)
            self.peak = max(self.peak, sum(self._sizes.values()))
        return out

    def _note(self, values: Any, counts: bool) -> None:
        for storage in filter(None, map(_storage, tree_iter(values))):
            if storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes() if counts else 0
                weakref.finalize(storage, self._sizes.pop, storage._cdata)
