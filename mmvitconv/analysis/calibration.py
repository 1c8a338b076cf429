"""Measure which form of an operator is fastest on this machine, and keep it for all processes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch

from mmvitconv.analysis.timing import clock, take_turns
from mmvitconv.ops import circular_conv
from mmvitconv.ops.circular_conv import ALGORITHMS, Rule
from mmvitconv.ops.machine import calibration_file, machine_name

__all__ = ["Cell", "calibrate", "measure_cell", "store"]

LENGTHS = (7, 10, 14, 20, 28, 40, 56, 80, 112, 160, 224)
SLOW_LENGTHS = (67, 113, 173)  # with large prime factors
DENSE_LENGTHS = (7, 10, 14, 20, 28)
_AXES = {2: "H", 3: "W"}
_VALUES = 2**21  # most values of a map
_HOPELESS = 3.0  # times the fastest: not tried again, nor at larger sizes
_GLANCE = 0.05  # seconds for a first look at a form
_MATRIX = 256  # MiB that circulants may take


@dataclass(frozen=True)
class Cell:
    """A circular convolution to measure; its fields are those of :class:`Rule`.

    Attributes:
        length: Of the map's sides.
        axis: 2 for the height, 3 for the width.
        use: ``'inference'`` or ``'training'``.
        dense: Whether the kernel mixes channels.
        is_half: Whether it computes in bfloat16.
        batch: Images.
        channels_last: Whether the map is in channels_last; None to measure it in the default format
            for both.
    """

    length: int
    axis: int
    use: str
    dense: bool = False
    is_half: bool = False
    batch: int = 2
    channels_last: bool | None = None

    def call(self) -> Callable[[str], None]:
        """Return a function that runs a form by its name, backward pass included for training."""
        dtype = torch.bfloat16 if self.is_half else torch.float32
        most = _VALUES // (self.batch * self.length**2)
        channels = max(16, min(128, most // 16 * 16))
        x = torch.randn(self.batch, channels, self.length, self.length, dtype=dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        shape = (channels, channels) if self.dense else (channels, 1)
        weight = torch.randn(*shape, self.length, dtype=dtype).unsqueeze(5 - self.axis)
        trains = self.use == "training"
        operands = [tensor.requires_grad_(trains) for tensor in (x, weight)]

        def run(algorithm: str) -> None:
            with torch.set_grad_enabled(trains):
                out = circular_conv(*operands, _AXES[self.axis], algorithm=algorithm)
                if trains:
                    torch.autograd.grad(out, operands, out.detach())

        return run


def measure_cell(
    cell: Cell, forms: Sequence[str], rounds: int = 30, seconds: float = 0.4
) -> dict[str, float]:
    """Time the forms of a cell.

    Args:
        cell: What to run.
        forms: Names of the forms.
        rounds: Calls of each form that may win.
        seconds: Stop after so long, but not before the fifth round.

    Returns:
        Seconds by form: the fastest call, as others may use the machine meanwhile.
    """
    run = cell.call()
    times = {}
    for form in forms:
        run(form)  # the first call may prepare something
        calls = [clock(partial(run, form))]
        while len(calls) < 5 and sum(calls) < _GLANCE:
            calls.append(clock(partial(run, form)))
        times[form] = min(calls)
    best = min(times.values())
    close = [form for form, taken in times.items() if taken <= _HOPELESS * best]
    measured = take_turns({form: partial(run, form) for form in close}, rounds, 0, seconds)
    return times | {form: min(taken) for form, taken in measured.items()}


def calibrate(seconds: float = 100.0, report: Callable[[str], None] = print) -> list[Rule]:
    """Measure circular convolutions on the CPU.

    Args:
        seconds: Give up measuring after so long; what is left keeps the shipped rules.
        report: Told what was found, a line at a time.

    Returns:
        The rules; the first that fits decides.
    """
    deadline = time.monotonic() + seconds
    rules: list[Rule] = []
    for cells, limits in _series():
        best: list[tuple[int, str]] = []
        forms = list(ALGORITHMS)
        for cell in cells:
            if time.monotonic() > deadline:
                break
            times = measure_cell(cell, forms)
            fastest = min(times, key=times.get)
            best.append((cell.length, fastest))
            # Products with n x n matrices and sums over n taps only fall back as n grows.
            forms = [
                form for form in forms
                if form == "fft" or times[form] <= _HOPELESS * times[fastest]
            ]  # fmt: skip
        facts = {"device": "cpu", "use": cells[0].use, "axis": cells[0].axis,
                 "dense": cells[0].dense, "is_half": cells[0].is_half,
                 "channels_last": cells[0].channels_last, **limits}  # fmt: skip
        rules += _to_rules(best, facts, whole=len(best) == len(cells))
        title = ", ".join(f"{name}={value}" for name, value in facts.items() if name != "device")
        report(f"{title}: {', '.join(f'{length} {form}' for length, form in best) or 'no time'}")
    return rules


def _series() -> Iterator[tuple[list[Cell], dict]]:
    """Yield cells of growing length that share a series of rules, and the rules' other limits."""
    uses = ("inference", "training")
    for axis, use, is_half in itertools.product(_AXES, uses, (False, True)):
        for lengths, limits in ((SLOW_LENGTHS, {"is_fast": False}), (LENGTHS, {})):
            if limits and is_half:
                continue
            formats = (None,) if use == "training" or is_half else (False, True)
            for channels_last in formats:
                cell = Cell(0, axis, use, is_half=is_half, channels_last=channels_last)
                yield [replace(cell, length=n) for n in lengths], limits
    for axis, use, batch in itertools.product(_AXES, uses, (2, 16)):
        cells = [Cell(n, axis, use, dense=True, batch=batch) for n in DENSE_LENGTHS]
        yield cells, {"max_batch": 5} if batch == 2 else {}


def _to_rules(best: Sequence[tuple[int, str]], facts: dict, whole: bool) -> list[Rule]:
    """Turn the fastest forms of growing lengths into rules, with borders between the lengths."""
    rules = []
    for position, (length, form) in enumerate(best):
        is_last = position + 1 == len(best)
        if not is_last and best[position + 1][1] == form:
            continue
        border = length if is_last else int((length * best[position + 1][0]) ** 0.5)
        rule = Rule(form, max_length=border, **facts)
        if form == "circulant" and not rule.dense:
            rule = replace(rule, max_matrix=_MATRIX)
        rules.append(rule)
    if whole and rules and rules[-1].algorithm == "fft":  # which the longest axes take anyway
        rules[-1] = replace(rules[-1], max_length=float("inf"))
    return rules


def store(rules: Sequence[Rule]) -> Path:
    """Keep the rules for this machine.

    Args:
        rules: What :func:`calibrate` returned.

    Returns:
        The file, in the user's cache.
    """
    defaults = {field.name: field.default for field in fields(Rule)}
    given = [
        {name: value for name, value in asdict(rule).items() if value != defaults[name]}
        for rule in rules
    ]
    table = {"machine": machine_name(), "torch": torch.__version__, "circular_conv": given}
    file = calibration_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return file
