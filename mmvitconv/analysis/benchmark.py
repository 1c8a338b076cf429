"""How fast backbones are, measured so that they can be compared.

All variants of all models at one size, batch and pass are in memory together and take turns, call
by call: a slow moment of the machine meets all of them. The models are backbones with the features
of all their stages, without heads and without weights.
"""

from __future__ import annotations

import copy
import gc
import math
import statistics
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.benchmark.utils.common import set_torch_threads

from mmvitconv.analysis.benchmark_models import Candidate, Shape, count_costs
from mmvitconv.analysis.benchmark_results import Row, device_name
from mmvitconv.analysis.timing import Timer, peak_memory, stopwatch, take_turns
from mmvitconv.errors import UserError
from mmvitconv.runtime import fold

__all__ = ["Plan", "run_benchmark"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
LEARNING_RATE = 1e-5  # small: the weights stay what they are
# So many times slower than its model's fastest variant, and slow at all: it would hold up the rest.
HOPELESS_RATIO, HOPELESS_SECONDS = 10.0, 1.0
INPUT = "the input"  # as what does not fit into memory


@dataclass(frozen=True)
class Plan:
    """What is measured: all combinations.

    Args:
        models: From :func:`~mmvitconv.analysis.benchmark_models.find_models`.
        shapes: Heights and widths of the images.
        batches: Images at a time.
        dtypes: Keys of :data:`DTYPES`; the reduced ones by autocast, weights stay float32.
        layouts: Keys of :data:`LAYOUTS`, of images and weights.
        modes: ``'eager'``, ``'compiled'``.
        passes: ``'inference'``, ``'training'``: forward, backward and a step of AdamW.
        device: ``'cpu'`` or ``'cuda'``.
        threads: On the CPU; None for as many as torch takes.
        rounds: Calls of each variant that count.
        warm_up: Calls before them, after the first one.
        seconds: What the counted calls of one size, batch and pass may take together, at least five
            rounds; None for no limit.
        folds: Whether models of ours are folded for inference.
    """

    models: Sequence[Candidate]
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
    folds: bool = True

    def keys(self) -> set[tuple[Any, ...]]:
        """Return the keys of all rows that it asks for."""
        names = [model.name for model in self.models]
        shapes = ["x".join(map(str, shape)) for shape in self.shapes]
        ways = (self.dtypes, self.layouts, self.modes, self.passes)
        return set(product(names, shapes, self.batches, *ways))


class Variant(NamedTuple):
    """A way to run a model."""

    model: str
    dtype: str
    layout: str
    mode: str

    def __str__(self) -> str:
        return f"{self.model} {self.dtype} {self.layout} {self.mode}"


class _Prepared(NamedTuple):
    """A variant that has run once."""

    run: Callable[[], object]
    first_seconds: float


class _OutOfMemoryError(Exception):
    """Something does not fit; the message names it: a variant, a model, or the input."""


@contextmanager
def _naming_shortage(name: str) -> Iterator[None]:
    """Say what does not fit where an error is about memory."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise _OutOfMemoryError(name) from None
    except RuntimeError as error:
        if "out of memory" in str(error) or "t allocate memory" in str(error):
            raise _OutOfMemoryError(name) from None
        raise


def run_benchmark(
    plan: Plan,
    say: Callable[[str], object] = print,
    begin: Callable[[str], object] = lambda title: None,
    timer: Timer | None = None,
) -> Iterator[list[Row]]:
    """Measure a plan, group by group: what takes turns has one size, batch and pass.

    What cannot be measured (a type that the device is slow at, a model that does not take the size,
    a failed compilation) is said in one line and left out; a batch that does not fit into memory is
    halved for all models.

    Args:
        plan: What to measure.
        say: Gets a line about what was left out, and why.
        begin: Gets the title of each group.
        timer: Takes the time of one call; None for the device's clock.

    Yields:
        The rows of each group once it is done.

    Raises:
        UserError: No dtype is left, or the device is not there.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no GPU here; give cpu")
    dtypes = list(_supported_dtypes(plan, say))
    if not dtypes:
        raise UserError(f"no dtype is left to measure; give one of {', '.join(DTYPES)}")
    plan = replace(plan, dtypes=dtypes)
    timer = timer or stopwatch(plan.device)
    done: set[tuple[Any, ...]] = set()
    with set_torch_threads(plan.threads or torch.get_num_threads()), _benchmark_switches(plan):
        for pass_, shape, batch in product(plan.passes, plan.shapes, plan.batches):
            without: set[str] = set()
            while (pass_, shape, batch) not in done:
                group = _Group(plan, pass_, shape, batch, without, say, timer)
                begin(str(group))
                try:
                    rows = group.measure()
                except _OutOfMemoryError as error:
                    too_big = str(error)
                else:
                    done.add((pass_, shape, batch))
                    yield rows
                    continue
                finally:
                    if "compiled" in plan.modes:
                        torch._dynamo.reset()  # frees what was compiled for this group
                # Only here: an error that is still handled keeps the group's tensors alive.
                gc.collect()
                if plan.device == "cuda":
                    torch.cuda.empty_cache()
                line = f"{group}: {too_big} does not fit into memory"
                if batch == 1:
                    say(f"{line}; left out")
                    without.add(too_big)
                else:
                    batch //= 2
                    say(f"{line}; batch {batch} for all models")


def _supported_dtypes(plan: Plan, say: Callable[[str], object]) -> Iterator[str]:
    for dtype in dict.fromkeys(plan.dtypes):
        if dtype == "fp16" and plan.device == "cpu":
            say("fp16: CPUs have no fast kernels for it; left out, bf16 is their reduced type")
        elif dtype == "bf16" and plan.device == "cuda" and not torch.cuda.is_bf16_supported():
            say(f"bf16: {torch.cuda.get_device_name()} has none; left out")
        else:
            yield dtype


@contextmanager
def _benchmark_switches(plan: Plan) -> Iterator[None]:
    """Let cuDNN choose by measuring, since sizes are fixed, and let every model be compiled."""
    # Where a model's graph breaks, the code of its class is compiled, which others share. With
    # torch's limit of 8 versions the ninth would run eagerly, without a word.
    limit: Any = nullcontext()
    if "compiled" in plan.modes:
        import torch._dynamo.config as dynamo_config

        limit = dynamo_config.patch(cache_size_limit=4096, accumulated_cache_size_limit=65536)
    with limit, torch.backends.cudnn.flags(enabled=True, benchmark=True):
        yield


@dataclass
class _Group:
    """All models and variants of one size, batch and pass."""

    plan: Plan
    pass_: str
    shape: Shape
    batch: int
    without: set[str]  # what does not fit into memory
    say: Callable[[str], object]
    timer: Timer
    costs: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.pass_} {self.shape[0]}x{self.shape[1]} batch {self.batch}"

    def leave_out(self, name: object, error: Exception) -> None:
        """Say the first line of what went wrong."""
        lines = str(error).strip().splitlines()
        reason = f": {lines[0].strip()}" if lines else ""
        self.say(f"{self}: {name} left out: {type(error).__name__}{reason}")

    def measure(self) -> list[Row]:
        """Return the rows of all that can be measured."""
        if INPUT in self.without:
            return []
        with _naming_shortage(INPUT):
            images = random_tensor((self.batch, 3, *self.shape), seed=0).to(self.plan.device)
        prepared: dict[Variant, _Prepared] = {}
        for candidate in self.plan.models:
            if candidate.name in self.without:
                continue
            try:
                with _naming_shortage(candidate.name):
                    model = candidate.build(self.shape)
                    self.costs[candidate.name] = count_costs(model, self.shape)
                    if self.plan.folds and self.pass_ == "inference":
                        model = fold(model.eval(), inplace=True)
            except _OutOfMemoryError:
                raise
            except Exception as error:
                self.leave_out(candidate.name, error)
                continue
            prepared.update(self.prepare(candidate.name, model, images))
        functions = {variant: ready.run for variant, ready in prepared.items()}
        plan = self.plan
        times = take_turns(functions, plan.rounds, self.timer, plan.warm_up, plan.seconds)
        return [self.row(variant, prepared[variant], times[variant]) for variant in times]

    def prepare(self, name: str, model: nn.Module, images: Tensor) -> dict[Variant, _Prepared]:
        """Return all variants of a model that run; each has run once."""
        prepared: dict[Variant, _Prepared] = {}
        for layout in self.plan.layouts:
            if f"{name} {layout}" in self.without:
                continue
            form = LAYOUTS[layout]
            with _naming_shortage(f"{name} {layout}"):
                laid_out = copy.deepcopy(model).to(self.plan.device, memory_format=form)
                x = images.contiguous(memory_format=form)
            for mode, dtype in product(self.plan.modes, self.plan.dtypes):
                variant = Variant(name, dtype, layout, mode)
                if str(variant) in self.without:
                    continue
                run = self.function(variant, laid_out, x)
                try:
                    prepared[variant] = _Prepared(run, self.timer(run))
                except _OutOfMemoryError:
                    raise
                except Exception as error:
                    self.leave_out(variant, error)
        fastest = min((ready.first_seconds for ready in prepared.values()), default=0.0)
        limit = max(HOPELESS_SECONDS, HOPELESS_RATIO * fastest)
        for variant, ready in list(prepared.items()):  # a first call's time is checked by another
            if ready.first_seconds > limit and (again := self.timer(ready.run)) > limit:
                self.say(
                    f"{self}: {variant} left out: {again:.1f} s a call, more than "
                    f"{HOPELESS_RATIO:g} times the model's fastest variant"
                )
                del prepared[variant]
        return prepared

    def function(self, variant: Variant, model: nn.Module, x: Tensor) -> Callable[[], object]:
        """Return what is timed; the first call compiles, and any may lack memory."""
        call: Callable[[], object] | None = None

        def run() -> object:
            nonlocal call
            with _naming_shortage(str(variant)):
                call = call or _make_call(model, x, variant, self.pass_ == "training")
                return call()

        return run

    def row(self, variant: Variant, ready: _Prepared, seconds: Sequence[float]) -> Row:
        """Return the row of a variant."""
        device, is_compiled = self.plan.device, variant.mode == "compiled"
        times = [1e3 * value for value in seconds] * (2 if len(seconds) == 1 else 1)
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        # Compiled code hides its tensors from the count of a CPU.
        is_known = not (is_compiled and device == "cpu")
        return Row(
            **variant._asdict(),
            **dict(zip(("params", "macs"), self.costs[variant.model], strict=True)),
            shape="x".join(map(str, self.shape)),
            batch=self.batch,
            pass_=self.pass_,
            median_ms=median,
            iqr_ms=high - low,
            min_ms=min(times),
            images_per_s=1e3 * self.batch / median,
            peak_mb=peak_memory(ready.run, device) / 2**20 if is_known else None,
            compile_s=ready.first_seconds if is_compiled else None,
            rounds=len(seconds),
            threads=torch.get_num_threads(),
            device=device_name(device),
            torch=torch.__version__,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            folded=int(self.plan.folds and self.pass_ == "inference"),
        )


def _make_call(model: nn.Module, x: Tensor, variant: Variant, trains: bool) -> Callable[[], object]:
    """Return a function that runs a model once: in inference, or in a step of training."""
    module = model.train(trains)
    call: Any = module
    if variant.mode == "compiled":
        call = torch.compile(_with_own_code(module), dynamic=False)
    dtype, device = DTYPES[variant.dtype], x.device.type

    def forward() -> Any:
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            return call(x)

    if trains:
        return _training_step(module, forward, device, scales=dtype is torch.float16)
    return torch.inference_mode()(forward)


def _with_own_code(module: nn.Module) -> Callable[[Tensor], Any]:
    """Return a function that calls a module and shares its code with no other function.

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
    """Return forward, backward and optimizer in one function."""
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
    """Return the same normal numbers each time."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
