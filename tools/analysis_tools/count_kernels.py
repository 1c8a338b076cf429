"""Kernels and bytes of a forward pass and a training step on a GPU, counted without one.

python tools/analysis_tools/count_kernels.py [FAMILY ...] [--channels-last] [--operators]

Ours against the original: the tests' oracle, for the dynamic-convolution families timm's DeiT and
Swin with the same outputs. The tensors are meta tensors that say they are on a GPU, so models and
operators decide as they would there, and nothing is computed. Every operator that is no view and
does more than to allocate counts as one kernel, with the bytes of the tensors that it reads and
writes; what a kernel of cuDNN does inside, and how fast it is, is not seen.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mmvitconv.models import (
    ConvMixer,
    DynConvSwin,
    DynConvViT,
    FCViT,
    LightViT,
    ParCConvNeXt,
    ParCMobileNetV2,
    ParCNet,
    ParCResNet,
)
from mmvitconv.ops import is_channels_last

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from oracles import convmixer, fcvit, lightvit, parc
from shared import print_table

BATCH = 32
ATEN = torch.ops.aten
ALLOCATIONS = {
    ATEN.empty, ATEN.empty_like, ATEN.empty_strided, ATEN.new_empty, ATEN.new_empty_strided,
    ATEN.detach, ATEN.lift_fresh, ATEN._unsafe_view, ATEN._reshape_alias,
}  # fmt: skip

ANSWERS = {
    Tensor.device.__get__: torch.device("cuda", 0),
    Tensor.is_cuda.__get__: True,
    Tensor.is_meta.__get__: False,
}


class Case(NamedTuple):
    """A family's models, both without classifier, and the side of their images."""

    original: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    size: int = 224


class TimmMaps(nn.Module):
    """Stages of timm's model as normed maps, as ours gives them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        with torch.device("cpu"):  # timm looks at values
            self.model = timm.create_model(name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the last stage's map."""
        options = {"norm": True, "intermediates_only": True, "output_fmt": "NCHW"}
        return self.model.forward_intermediates(x, indices=1, **options)


CASES = {
    "ConvMixer": Case(
        lambda: convmixer.oracle(768, 32, 7, 7, "relu"), lambda: ConvMixer("768_32", out_indices=-1)
    ),
    "DynConvViT": Case(
        lambda: TimmMaps("deit_tiny_patch16_224"), lambda: DynConvViT("tiny", out_indices=-1)
    ),
    "DynConvViT with class token": Case(
        lambda: TimmMaps("deit_tiny_patch16_224"),
        lambda: DynConvViT("tiny", out_indices=-1, with_cls_token=True),
    ),
    "DynConvSwin": Case(
        lambda: TimmMaps("swin_tiny_patch4_window7_224"),
        lambda: DynConvSwin("tiny", out_indices=-1),
    ),
    "FCViT": Case(lambda: fcvit.variant("s12"), lambda: FCViT("s12")),
    "LightViT": Case(lambda: lightvit.variant("tiny", dense=True), lambda: LightViT("tiny")),
    "ParCConvNeXt": Case(parc.ParCConvNeXt, lambda: ParCConvNeXt("xt")),
    "ParCMobileNetV2": Case(
        parc.ParCMobileNetV2, lambda: ParCMobileNetV2("1.0", out_indices=range(8))
    ),
    "ParCNet": Case(
        lambda: parc.parc_net("s"), lambda: ParCNet("s", out_indices=range(6)), size=256
    ),
    "ParCResNet": Case(parc.ParCResNet50, lambda: ParCResNet("50")),
}


class SaysCuda(TorchFunctionMode):
    """Makes meta tensors say that they are on a GPU, and takes a GPU's attention kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer, or run a function with what it makes on the meta device."""
        kwargs = kwargs or {}
        if func in ANSWERS:
            return ANSWERS[func]
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    needs_grad = torch.is_grad_enabled()
    return ATEN._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
    )[0]


class Kernels(TorchDispatchMode):
    """Counts kernels and bytes by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it."""
        out = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            out = _in_cuda_format(func, args, out)
            tensors = _tensors((args, kwargs, out))
            views = (value.alias_info is not None for value in func._schema.returns)
            is_view = any(views) and not func._schema.is_mutable
            if tensors and not is_view and func._overloadpacket not in ALLOCATIONS:
                name = func._overloadpacket.__name__
                self.kernels[name] += 1
                self.bytes[name] += sum(map(_size, tensors))
        return out


def _in_cuda_format(func: Any, args: tuple, out: Any) -> Any:
    """Return an operator's output in the memory format of its CUDA kernel, not of its meta one."""

    def convert(x: Tensor | None, layout: torch.memory_format) -> Tensor | None:
        return x if x is None or x.dim() != 4 else x.contiguous(memory_format=layout)

    packet = func._overloadpacket
    if packet in (ATEN.convolution, ATEN.convolution_backward):
        operands = args[:2] if packet is ATEN.convolution else args[1:3]
        if not any(x.dim() == 4 and is_channels_last(x) for x in operands):
            return out
        if packet is ATEN.convolution:
            return convert(out, torch.channels_last)
        return (*(convert(x, torch.channels_last) for x in out[:2]), out[2])
    if packet in (ATEN.native_layer_norm_backward, ATEN.native_group_norm_backward):
        return (convert(out[0], torch.contiguous_format), *out[1:])
    return out


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_iter(values) if isinstance(value, Tensor)]


def _size(x: Tensor) -> int:
    """Return the bytes of a tensor; those that it repeats count once."""
    size = x.element_size()
    for length, stride in zip(x.shape, x.stride(), strict=True):
        size *= length if stride else 1
    return size


def count(model: nn.Module, x: Tensor, trains: bool) -> Kernels:
    """Count a forward pass in evaluation mode, or a forward and a backward pass in training mode.

    Args:
        model: On the meta device; it returns a tensor, a sequence or a dict of tensors.
        x: Images on the meta device.
        trains: Whether to count a training step.
    """
    model.train(trains)
    with SaysCuda(), torch.set_grad_enabled(trains), Kernels() as kernels:
        outs = model(x)
        if trains:
            outs = [value for key, value in _named(outs) if key != "logits"]
            torch.autograd.backward(outs, [torch.empty_like(out) for out in outs])
    return kernels


def _named(outs: Any) -> Iterable[tuple[Any, Tensor]]:
    if isinstance(outs, dict):
        return outs.items()
    return enumerate([outs] if isinstance(outs, Tensor) else outs)


def compare(name: str, trains: bool, channels_last: bool) -> tuple[Kernels, Kernels]:
    """Count a family's original and ours.

    Args:
        name: A key of ``CASES``.
        trains: See :func:`count`.
        channels_last: Whether models and images are in channels_last.

    Returns:
        The original's counts and ours.
    """
    case = CASES[name]
    counts = []
    for build in (case.original, case.ours):
        with torch.device("meta"):
            model, x = build().to("meta"), torch.empty(BATCH, 3, case.size, case.size)
        if channels_last:
            model, x = (part.to(memory_format=torch.channels_last) for part in (model, x))
        for part in ("classifier", "fc", "head"):  # the oracle's own, whose cost is not ours
            if isinstance(getattr(model, part, None), nn.Module):
                setattr(model, part, nn.Identity())
        counts.append(count(model, x, trains))
    return counts[0], counts[1]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(CASES)}")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--operators", action="store_true", help="show where the two differ")
    args = parser.parse_args()
    if unknown := set(args.families) - set(CASES):
        parser.error(f"unknown family {', '.join(sorted(unknown))}; give {', '.join(CASES)}")
    rows = []
    for name in args.families or CASES:
        for trains in (False, True):
            original, ours = compare(name, trains, args.channels_last)
            counts = (original.kernels, original.bytes, ours.kernels, ours.bytes)
            title = f"{name}, {'training step' if trains else 'forward'}"
            rows.append(_row(title, *(sum(each.values()) for each in counts)))
            for operator in sorted({*counts[0], *counts[2]}) if args.operators else ():
                numbers = [each[operator] for each in counts]
                if numbers[:2] != numbers[2:]:
                    rows.append(_row(f"  {operator}", *numbers))
    header = ["", "original: kernels", "GiB", "ours: kernels", "GiB", "kernels", "bytes"]
    print_table(f"Batch {BATCH}; the last columns are ours / original", header, rows, width=110)


def _row(title: str, kernels: int, size: int, our_kernels: int, our_size: int) -> list[str]:
    ratios = [f"{a / b:.3f}" if b else "-" for a, b in ((our_kernels, kernels), (our_size, size))]
    numbers = [str(kernels), f"{size / 2**30:.1f}", str(our_kernels), f"{our_size / 2**30:.1f}"]
    return [title, *numbers, *ratios]


if __name__ == "__main__":
    main()
