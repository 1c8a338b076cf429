"""What a benchmark measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmvitconv.analysis.benchmark_models import Entry, Shape
from mmvitconv.analysis.benchmark_results import Row
from mmvitconv.analysis.benchmark_runs import DTYPES, LAYOUTS
from mmvitconv.errors import UserError

__all__ = ["MODES", "PASSES", "Plan", "check_plan"]

MODES = ("eager", "compiled")
PASSES = ("inference", "training")


@dataclass(frozen=True)
class Plan:
    """What is measured: all combinations.

    Args:
        models: From :func:`~mmvitconv.analysis.benchmark_models.find_models`.
        shapes: Heights and widths of the images.
        batches: Images at a time.
        dtypes: Keys of :data:`DTYPES`; the reduced ones by autocast, weights stay float32.
        layouts: Keys of :data:`LAYOUTS`, of images and weights.
        modes: Of :data:`MODES`.
        passes: Of :data:`PASSES`; training is forward, backward and a step of AdamW.
        device: ``'cpu'`` or ``'cuda'``.
        threads: On the CPU; None for as many as torch takes.
        rounds: Calls of each variant that count.
        warm_up: Calls before them, after the first one.
        seconds: What the counted calls of one size, batch and pass may take together, at least five
            rounds; None for no limit.
    """

    models: Sequence[Entry]
    shapes: Sequence[Shape] = ((224, 224),)
    batches: Sequence[int] = (1,)
    dtypes: Sequence[str] = ("fp32",)
    layouts: Sequence[str] = ("nchw", "nhwc")
    modes: Sequence[str] = ("eager",)
    passes: Sequence[str] = ("inference",)
    device: str = "cpu"
    threads: int | None = None
    rounds: int = 20
    warm_up: int = 2
    seconds: float | None = None

    def asks_for(self, row: Row) -> bool:
        """Whether a row of another run is of what this plan measures."""
        return (
            row.model in {entry.name for entry in self.models}
            and row.shape in {"x".join(map(str, shape)) for shape in self.shapes}
            and row.batch in self.batches
            and row.dtype in self.dtypes
            and row.layout in self.layouts
            and row.mode in self.modes
            and row.pass_ in self.passes
        )


def check_plan(plan: Plan) -> None:
    """Raise unless a plan can be carried out here.

    Raises:
        UserError: Something in it is illegal.
    """
    legal = {"dtypes": DTYPES, "layouts": LAYOUTS, "modes": MODES, "passes": PASSES}
    for name, choices in legal.items():
        for value in getattr(plan, name):
            if value not in choices:
                raise UserError(f"{name}: {value!r} is unknown; give one of {', '.join(choices)}")
    for name in ("models", "shapes", "batches", *legal):
        if not getattr(plan, name):
            raise UserError(f"{name} is empty; give at least one")
    if any(min(shape) < 1 for shape in plan.shapes):
        raise UserError(
            f"shapes {list(plan.shapes)} are illegal; give heights and widths from 1 on"
        )
    numbers = {"batches": plan.batches, "rounds": [plan.rounds], "threads": [plan.threads or 1]}
    for name, values in numbers.items():
        if min(values) < 1:
            raise UserError(f"{name}: {min(values)} is illegal; give a number from 1 on")
    if plan.warm_up < 0:
        raise UserError(f"warm-up: {plan.warm_up} is illegal; give a number from 0 on")
    if plan.seconds is not None and not plan.seconds > 0:
        raise UserError(f"seconds: {plan.seconds} is illegal; give a positive number")
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no GPU here; give cpu")
