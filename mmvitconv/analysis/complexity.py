"""Multiply-adds (MACs) of any module, counted operator by operator while it runs.

The rule
    One multiply followed by one add is one MAC. Convolutions (grouped, transposed, deformable),
    matrix products of every kind (so einsum too), scaled dot-product attention and FFTs count.
    Element-wise arithmetic, bias, norms, activations, softmax, reductions, pooling, interpolation,
    RoIAlign and moving data are free.

    * Attention counts q.k and attention.v in full, masked or not, whichever kernel computes it.
    * A complex FFT of length n is ``5 n log2 n`` real operations, a real one half of that (the
      convention of FFTW's benchmark), and two operations are one MAC. n is the product of the
      transformed sides; a real transform counts the real side's length.
    * A product of complex matrices is four real ones.

Two columns
    ``layers`` are products with something the input has no influence on: parameters and buffers,
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

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mmvitconv.analysis.free_operators import FREE_OPERATORS

__all__ = ["Complexity", "Macs", "count_complexity"]


class Macs(NamedTuple):
    """Multiply-adds in two columns.

    Args:
        layers: Products with weights (convolutions and linear layers).
        products: Products between activations (attention, similarities, FFT).
    """

    layers: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        """Both columns together."""
        return self.layers + self.products


@dataclass(frozen=True)
class Complexity:
    """What one forward pass of a module costs.

    Args:
        params: Number of parameters (shared ones once, buffers not).
        macs: Multiply-adds of the whole module.
        by_module: Multiply-adds of each submodule that has any, those below it included, by its
            name in ``named_modules()``.
        by_operator: Multiply-adds of each operator, by its name (``'aten.convolution'``).
        uncounted: Operators that do arithmetic but have no formula, with the number of calls.
    """

    params: int
    macs: Macs
    by_module: Mapping[str, Macs] = field(default_factory=dict)
    by_operator: Mapping[str, Macs] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)


def count_complexity(
    module: nn.Module, inputs: Tensor | tuple[Any, ...] | dict[str, Any]
) -> Complexity:
    """Count parameters and multiply-adds of one forward pass (evaluation mode, no gradients).

    The module must be on the device of its inputs; ``'meta'`` costs neither memory nor time if the
    module's control flow does not look at values. Modules are put back into their previous mode.

    Args:
        module: The module to run.
        inputs: The tensor, the positional arguments or the keyword arguments of ``module``.

    Returns:
        The counts, for exactly these inputs (so for the whole batch).
    """
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    counter = _OperatorCounter(module)
    with ExitStack() as stack:
        stack.enter_context(_evaluation_mode(module))
        stack.enter_context(_module_names(module, counter.path))
        stack.enter_context(_decomposed_attention_layers())
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        module(*args, **kwargs)
    return Complexity(
        params=sum(parameter.numel() for parameter in module.parameters()),
        macs=counter.by_module.pop("", Macs()),
        by_module=dict(counter.by_module),
        by_operator=dict(counter.by_operator),
        uncounted=dict(counter.uncounted),
    )


# Formulas -----------------------------------------------------------------------------------------
# torch's own registry covers convolutions, mm, addmm, bmm, baddbmm and the GPU attention kernels.
# These are the ones it lacks. Each gets the operator's positional arguments and its output.


def _fft_macs(real_side: Tensor, dims: list[int], operations: float) -> int:
    points = math.prod(real_side.shape[dim] for dim in dims)
    return round(real_side.numel() * operations * math.log2(points) / 2)


def _attention_macs(query: Tensor, key: Tensor, value: Tensor) -> int:
    *lead, queries, channels = query.shape
    return math.prod(lead) * queries * key.shape[-2] * (channels + value.shape[-1])


_FORMULAS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "aten.mv": lambda args, out: args[0].numel(),
    "aten.addmv": lambda args, out: args[1].numel(),
    "aten.dot": lambda args, out: args[0].numel(),
    "aten.vdot": lambda args, out: args[0].numel(),
    "aten.addr": lambda args, out: args[1].numel() * args[2].numel(),
    "aten.addbmm": lambda args, out: args[1].numel() * args[2].shape[-1],
    "aten._cdist_forward": lambda args, out: out.numel() * args[0].shape[-1],
    "aten._scaled_dot_product_flash_attention_for_cpu": lambda args, out: _attention_macs(
        *args[:3]
    ),
    "aten._scaled_dot_product_fused_attention_overrideable": lambda args, out: _attention_macs(
        *args[:3]
    ),
    "aten._fft_c2c": lambda args, out: _fft_macs(args[0], args[1], 5),
    "aten._fft_r2c": lambda args, out: _fft_macs(args[0], args[1], 2.5),
    "aten._fft_c2r": lambda args, out: _fft_macs(out, args[1], 2.5),
    # weight (out, in / groups, kh, kw); sampling the input is interpolation, so free.
    "torchvision.deform_conv2d": lambda args, out: out.numel() * args[1][0].numel(),
}

# Where the two factors of a product stand among the arguments. An operator that is counted but is
# not here (attention, FFT) belongs to ``products`` whatever its operands are.
_FACTORS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "addbmm", "addr"), (1, 2)),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_scaled_mm", "_cdist_forward"), (0, 1)),
    **dict.fromkeys(("convolution", "_convolution", "cudnn_convolution"), (0, 1)),
    **dict.fromkeys(("convolution_overrideable", "_slow_conv2d_forward", "deform_conv2d"), (0, 1)),
}


def _operator_name(operator: Any) -> str:
    """``'aten.addmm'`` for every overload of it, in place or not."""
    packet = operator._overloadpacket
    return f"{operator.namespace}.{_base_name(packet.__name__)}"


def _base_name(name: str) -> str:
    return name if name.endswith("__") else name.removesuffix("_")


def _is_free(operator: torch._ops.OpOverload, tensors: list[Tensor]) -> bool:
    if not tensors:  # factories: nothing to multiply
        return True
    tags = {torch.Tag.pointwise, torch.Tag.view_copy, getattr(torch.Tag, "reduction", None)}
    returned_views = (
        value.alias_info is not None and not value.alias_info.is_write
        for value in operator._schema.returns
    )
    if not tags.isdisjoint(operator.tags) or any(returned_views):
        return True
    return _base_name(operator._overloadpacket.__name__) in FREE_OPERATORS


def _macs(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """The operator's multiply-adds, None if there is no formula for it."""
    if isinstance(operator, torch._ops.OpOverload):
        name = _operator_name(operator)
        if name in _FORMULAS:
            macs = _FORMULAS[name](args, out)
            # the rule of the FFT is about complex numbers already
            return macs if name.startswith("aten._fft") else _times_complex(macs, out)
        packet = operator._overloadpacket
        if packet not in flop_counter.flop_registry:  # the in-place form: addmm_, baddbmm_
            namespace = getattr(torch.ops, operator.namespace)
            packet = getattr(namespace, _base_name(packet.__name__), packet)
    else:
        packet = operator  # a higher-order operator: flex attention
    if packet not in flop_counter.flop_registry:
        return None
    macs = flop_counter.flop_registry[packet](*args, **kwargs, out_val=out) // 2
    return _times_complex(macs, out)


def _times_complex(macs: int, out: Any) -> int:
    """The real multiply-adds of products whose output is ``out``."""
    return 4 * macs if isinstance(out, Tensor) and out.is_complex() else macs


# Running ------------------------------------------------------------------------------------------


class _Constants:
    """The storages that the input has no influence on.

    They are held, so that an address is not given to another tensor; there are few of them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        if (storage := self._storage(tensor)) is not None:
            self._storages[storage._cdata] = storage

    def discard(self, tensor: Tensor) -> None:
        if (storage := self._storage(tensor)) is not None:
            self._storages.pop(storage._cdata, None)

    def __contains__(self, tensor: Tensor) -> bool:
        storage = self._storage(tensor)
        return storage is not None and storage._cdata in self._storages

    @staticmethod
    def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
        # Sparse tensors have none, and every oneDNN-packed one throws.
        return tensor.untyped_storage() if tensor.layout is torch.strided else None


class _OperatorCounter(TorchDispatchMode):
    """Adds up the formulas of all operators that run inside it."""

    supports_higher_order_operators = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.by_module: dict[str, Macs] = defaultdict(Macs)
        self.by_operator: dict[str, Macs] = defaultdict(Macs)
        self.uncounted: Counter[str] = Counter()
        self._constants = _Constants(module)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and account for it."""
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            out = func(*args, **kwargs)
            self._count(func, str(func), args, kwargs, out, [])
            return out
        # Under inference mode composite operators (linear, einsum) arrive whole.
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        self._count(func, _operator_name(func), args, kwargs, out, tensors)
        self._follow_constants(func, args, kwargs, out, tensors)
        return out

    def _count(
        self,
        operator: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        tensors: list[Tensor],
    ) -> None:
        count = _macs(operator, args, kwargs, out)
        if count is None:
            if not isinstance(operator, torch._ops.OpOverload) or not _is_free(operator, tensors):
                self.uncounted[name] += 1
            return
        factors = _FACTORS.get(name.rpartition(".")[2], ())
        is_layer = any(args[position] in self._constants for position in factors)
        cost = Macs(layers=count) if is_layer else Macs(products=count)
        self.by_operator[name] = _add(self.by_operator[name], cost)
        for module_name in _with_ancestors(self.path[-1]):
            self.by_module[module_name] = _add(self.by_module[module_name], cost)

    def _follow_constants(
        self,
        operator: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        tensors: list[Tensor],
    ) -> None:
        """What is made of constants only is constant, until an activation is written into it."""
        if all(tensor in self._constants for tensor in tensors):
            for value in tree_iter(out):
                if isinstance(value, Tensor):
                    self._constants.add(value)
        elif operator._schema.is_mutable:
            given = dict(zip((a.name for a in operator._schema.arguments), args, strict=False))
            given.update(kwargs)
            for argument in operator._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for value in tree_iter(given.get(argument.name)):
                        if isinstance(value, Tensor):
                            self._constants.discard(value)


def _with_ancestors(name: str) -> list[str]:
    """``['', 'a', 'a.b']`` for ``'a.b'``.

    By name and not by call: mm* models call ``head.forward`` directly and lend modules to each
    other, and so each product belongs to one branch of the tree only.
    """
    parts = name.split(".") if name else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _add(first: Macs, second: Macs) -> Macs:
    return Macs(first.layers + second.layers, first.products + second.products)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training


@contextmanager
def _module_names(module: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep in ``path`` the names of the modules that are running, outermost first."""
    with ExitStack() as stack:
        for name, child in module.named_modules():
            if not name:  # the whole module is always on the path
                continue

            def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
                path.append(name)

            def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
                path.pop()

            stack.callback(child.register_forward_pre_hook(enter).remove)
            stack.callback(child.register_forward_hook(leave, always_call=True).remove)
        yield


@contextmanager
def _decomposed_attention_layers() -> Iterator[None]:
    """nn.MultiheadAttention as linear layers and attention instead of one opaque operator."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
