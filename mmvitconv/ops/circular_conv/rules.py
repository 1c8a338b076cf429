"""Which form a circular convolution takes: tables of measurements, one for each kind of machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from mmvitconv.ops.circular_conv.fft import is_fast
from mmvitconv.ops.machine import cpu_kind, read_calibration

__all__ = ["FORMS", "RULES", "Rule", "choose_form", "rules_of"]

FORMS = ("concat", "circulant", "fft", "dft")
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Rule:
    """When a circular convolution takes an algorithm; what is left out does not matter.

    Args:
        algorithm: One of ``ALGORITHMS``.
        device: Device type.
        use: ``'training'`` (a gradient is needed), ``'inference'`` or ``'export'`` (torch.export,
            ONNX, TorchScript).
        dense: Whether the kernel mixes channels.
        axis: 2 for the height, 3 for the width.
        is_half: Whether it computes in float16 or bfloat16.
        is_fast: Whether the length has small prime factors only, so that its FFT is fast.
        channels_last: Whether the map is in channels_last.
        max_length: Longest axis.
        max_batch: Most images.
        max_matrix: Largest circulant in MiB.
    """

    algorithm: str
    device: str | None = None
    use: str | None = None
    dense: bool | None = None
    axis: int | None = None
    is_half: bool | None = None
    is_fast: bool | None = None
    channels_last: bool | None = None
    max_length: float = math.inf
    max_batch: float = math.inf
    max_matrix: float = math.inf


# Everywhere.
_EXACT = (
    Rule("concat", device="meta"),  # what is counted is the formula
    # No complex numbers, and no convolution whose kernel follows the map: runtimes refuse those.
    Rule("circulant", use="export", dense=False),
    Rule("dft", use="export", dense=True),
    # Fewest launches and bytes at the lengths that one trains at: counted, not measured.
    Rule("concat", device="cuda", max_length=64),
)
# CPUs, by what their matrix products are made of.
_MEASURED: dict[str, tuple[Rule, ...]] = {
    # tools/analysis_tools/benchmark_ops.py on one and two cores with AVX-512 and AMX, float32 and
    # bfloat16, batches of 2 and 16, 32 to 256 channels.
    "amx": (
        Rule("circulant", "cpu", dense=False, is_half=True, max_length=512, max_matrix=256),
        Rule("circulant", "cpu", dense=False, axis=2, max_length=192, max_matrix=256),
        Rule("circulant", "cpu", dense=False, axis=3, max_length=112, max_matrix=256),
    ),
    # `mmvitconv calibrate` on one core of an AMD EPYC with AVX-512 and bfloat16, rounded.
    "avx512": (
        # All other forms copy the map into the default layout, and so does what comes behind them.
        Rule("concat", "cpu", "inference", False, channels_last=True, max_length=33),
        Rule("circulant", "cpu", dense=False, is_half=True, max_length=512, max_matrix=256),
        Rule("circulant", "cpu", dense=False, axis=2, max_length=94, max_matrix=256),
        Rule("fft", "cpu", dense=False, axis=3, max_length=11),
        Rule("circulant", "cpu", "training", dense=False, axis=3, max_length=47, max_matrix=256),
        Rule("circulant", "cpu", "inference", dense=False, axis=3, max_length=33, max_matrix=256),
    ),
}
# Whatever is left.
_OTHERS = (
    Rule("circulant", dense=False, is_fast=False, max_length=512, max_matrix=256),
    Rule("fft", dense=False),
    Rule("concat", dense=True, max_length=10),
    Rule("concat", dense=True, max_length=20, max_batch=4),
    Rule("fft", dense=True),
)


def rules_of(kind: str, measured: Sequence[Rule] = ()) -> tuple[Rule, ...]:
    """Return the rules of a machine; the first one that fits decides.

    Args:
        kind: Of its CPU, see :func:`mmvitconv.ops.machine.cpu_kind`.
        measured: Rules that were measured on it, which come before those of its kind.
    """
    return (*_EXACT, *measured, *_MEASURED[kind], *_OTHERS)


def _read_measured() -> list[Rule]:
    try:
        rules = [Rule(**rule) for rule in read_calibration("circular_conv")]
    except TypeError:  # of another version
        return []
    return [rule for rule in rules if rule.algorithm in FORMS]


RULES = rules_of(cpu_kind(), _read_measured())


@lru_cache(maxsize=1024)
def choose_form(
    device: str,
    dtype: torch.dtype,
    batch: int,
    taps_shape: tuple[int, ...],
    axis: int,
    dense: bool,
    use: str,
    channels_last: bool = False,
) -> str:
    """Return the algorithm of the first rule that fits."""
    length = taps_shape[-1]
    facts = {"device": device, "use": use, "dense": dense, "axis": axis, "is_half": dtype in _HALF,
             "channels_last": channels_last}  # fmt: skip
    for rule in RULES:
        # An export may leave sizes open, and its rule asks for none.
        limits = (
            (rule.max_length, lambda: length),
            (rule.max_matrix, lambda: math.prod(taps_shape) * length * dtype.itemsize / 2**20),
            (rule.max_batch, lambda: batch),
        )
        if (
            all(getattr(rule, name) in (None, fact) for name, fact in facts.items())
            and (rule.is_fast is None or rule.is_fast == is_fast(length))
            and all(limit == math.inf or value() <= limit for limit, value in limits)
        ):
            return rule.algorithm
    raise AssertionError("the last rules fit everything")
