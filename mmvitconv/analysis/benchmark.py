"""How fast backbones are, measured so that they can be compared.

All variants of all models at one size, batch and pass are in memory together and take turns, call
by call: a slow moment of the machine meets all of them. The models are backbones with the features
of all their stages, without heads and without weights.
"""

from __future__ import annotations

import copy
import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmvitconv.analysis.benchmark_models import Shape, count_costs
from mmvitconv.analysis.benchmark_plan import MODES, PASSES, Plan, check_plan
from mmvitconv.analysis.benchmark_results import Row, device_name
from mmvitconv.analysis.benchmark_runs import DTYPES, LAYOUTS, make_run, random_tensor
from mmvitconv.analysis.timing import Timer, peak_memory, stopwatch, take_turns, threads
from mmvitconv.errors import UserError

__all__ = ["DTYPES", "LAYOUTS", "MODES", "PASSES", "Plan", "check_plan", "run_benchmark"]

# So many times slower than its model's fastest variant, and slow at all: it would hold up the rest.
HOPELESS_RATIO, HOPELESS_SECONDS = 10.0, 1.0

INPUT = "the input"  # as what does not fit into memory


class Group(NamedTuple):
    """What is measured in turns: all models and variants of one size, batch and pass."""

    shape: Shape
    batch: int
    pass_: str

    def __str__(self) -> str:
        height, width = self.shape
        return f"{self.pass_} {height}x{width} batch {self.batch}"


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


class OutOfMemoryError(Exception):
    """Something does not fit; the message names it: a variant, a model, or the input."""


@dataclass(frozen=True)
class Listener:
    """Who hears what happens.

    Args:
        say: Gets a line about what was left out, and why.
        begin: Gets a group and how many calls it takes at most.
        advance: Called after each call.
    """

    say: Callable[[str], object] = print
    begin: Callable[[str, int], object] = lambda title, calls: None
    advance: Callable[[], object] = lambda: None


def run_benchmark(
    plan: Plan, listener: Listener | None = None, timer: Timer | None = None
) -> Iterator[list[Row]]:
    """Measure a plan, group by group.

    What cannot be measured (a type that the device is slow at, a model that does not take the size,
    a failed compilation) is said in one line and left out; a batch that does not fit into memory is
    halved for all models.

    Args:
        plan: What to measure.
        listener: Who hears of it.
        timer: Takes the time of one call; None for the device's clock.

    Yields:
        The rows of each group once it is done.

    Raises:
        UserError: The plan is illegal.
    """
    check_plan(plan)
    listener = listener or Listener()
    timer = timer or stopwatch(plan.device)
    dtypes = list(_supported_dtypes(plan, listener.say))
    if not dtypes:
        raise UserError(f"no dtype is left to measure; give one of {', '.join(DTYPES)}")
    plan = replace(plan, dtypes=dtypes)
    done: set[Group] = set()
    with threads(plan.threads) as count, _benchmark_switches(plan):
        for pass_, shape, batch in product(plan.passes, plan.shapes, plan.batches):
            group = Group(shape, batch, pass_)
            without: set[str] = set()
            while group not in done:
                try:
                    rows = _measure_group(plan, group, count, without, listener, timer)
                except OutOfMemoryError as error:
                    too_big = str(error)
                else:
                    done.add(group)
                    yield rows
                    continue
                # Only here: an error that is still handled keeps the group's tensors alive.
                gc.collect()
                if plan.device == "cuda":
                    torch.cuda.empty_cache()
                if group.batch == 1:
                    listener.say(f"{group}: {too_big} does not fit into memory; left out")
                    without.add(too_big)
                else:
                    half = group.batch // 2
                    listener.say(
                        f"{group}: {too_big} does not fit into memory; batch {half} for all models"
                    )
                    group = group._replace(batch=half)


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
    """Let cuDNN choose by measuring, and let every model be compiled."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # sizes are fixed
    # Where a model's graph breaks, the code of its class is compiled, which others share. With
    # torch's limit of 8 versions the ninth would run eagerly, without a word.
    limit: AbstractContextManager[Any] = nullcontext()
    if "compiled" in plan.modes:
        import torch._dynamo.config as dynamo_config

        limit = dynamo_config.patch(cache_size_limit=4096, accumulated_cache_size_limit=65536)
    try:
        with limit:
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _measure_group(
    plan: Plan, group: Group, count: int, without: set[str], listener: Listener, timer: Timer
) -> list[Row]:
    """Rows of one group.

    Args:
        plan: The plan.
        group: The group.
        count: Threads.
        without: What does not fit into memory, as :class:`OutOfMemoryError` names it.
        listener: Who hears of it.
        timer: Takes the time.

    Raises:
        OutOfMemoryError: The batch does not fit.
    """
    if INPUT in without:
        return []
    per_model = len(plan.layouts) * len(plan.dtypes) * len(plan.modes)
    # a first call, warm-up and rounds of each
    calls = len(plan.models) * per_model * (1 + plan.warm_up + plan.rounds)
    listener.begin(str(group), calls)
    try:
        return _measure_models(plan, group, count, without, listener, timer)
    finally:
        if "compiled" in plan.modes:
            torch._dynamo.reset()  # frees what was compiled for this group


def _measure_models(
    plan: Plan, group: Group, count: int, without: set[str], listener: Listener, timer: Timer
) -> list[Row]:
    try:
        images = random_tensor((group.batch, 3, *group.shape), seed=0).to(plan.device)
    except Exception as error:
        _name_shortage(error, INPUT)
        raise
    costs: dict[str, tuple[int, int]] = {}
    prepared: dict[Variant, _Prepared] = {}
    for entry in plan.models:
        if entry.name in without:
            continue
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = entry.build(group.shape)
            costs[entry.name] = count_costs(model, group.shape)
        except Exception as error:
            _name_shortage(error, entry.name)
            listener.say(f"{group}: {entry.name} left out: {_reason(error)}")
            continue
        prepared.update(_prepare(plan, group, entry.name, model, images, without, listener, timer))
    functions = {variant: ready.run for variant, ready in prepared.items()}
    times = take_turns(functions, plan.rounds, timer, plan.warm_up, plan.seconds, listener.advance)
    rows = []
    for variant, seconds in times.items():
        params, macs = costs[variant.model]
        median, iqr = _median_and_iqr([1e3 * value for value in seconds])
        compiled = variant.mode == "compiled"
        # Compiled code hides its tensors from the count of a CPU.
        memory = None
        if not (compiled and plan.device == "cpu"):
            memory = peak_memory(functions[variant], plan.device) / 2**20
        rows.append(
            Row(
                **variant._asdict(),
                params=params,
                macs=macs,
                shape="x".join(map(str, group.shape)),
                batch=group.batch,
                pass_=group.pass_,
                median_ms=median,
                iqr_ms=iqr,
                min_ms=1e3 * min(seconds),
                images_per_s=1e3 * group.batch / median,
                peak_mb=memory,
                compile_s=prepared[variant].first_seconds if compiled else None,
                rounds=len(seconds),
                threads=count,
                device=device_name(plan.device),
                torch=torch.__version__,
                date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            )
        )
    return rows


def _prepare(
    plan: Plan,
    group: Group,
    name: str,
    model: nn.Module,
    images: Tensor,
    without: set[str],
    listener: Listener,
    timer: Timer,
) -> dict[Variant, _Prepared]:
    """All variants of a model that run, each of which has run once."""
    prepared: dict[Variant, _Prepared] = {}
    for layout in plan.layouts:
        if f"{name} {layout}" in without:
            continue
        memory_format = LAYOUTS[layout]
        try:
            laid_out = copy.deepcopy(model).to(plan.device, memory_format=memory_format)
            x = images.contiguous(memory_format=memory_format)
        except Exception as error:
            _name_shortage(error, f"{name} {layout}")
            raise
        for mode, dtype in product(plan.modes, plan.dtypes):
            variant = Variant(name, dtype, layout, mode)
            if str(variant) in without:
                continue
            try:
                run = make_run(
                    laid_out,
                    x,
                    DTYPES[dtype],
                    mode == "compiled",
                    group.pass_ == "training",
                    plan.device,
                )
                run = _naming_shortage(run, variant)
                first = timer(run)
            except OutOfMemoryError:
                raise
            except Exception as error:
                _name_shortage(error, str(variant))
                listener.say(f"{group}: {variant} left out: {_reason(error)}")
            else:
                listener.advance()
                prepared[variant] = _Prepared(run, first)
    return _without_hopeless(prepared, group, listener.say, timer)


def _without_hopeless(
    prepared: dict[Variant, _Prepared],
    group: Group,
    say: Callable[[str], object],
    timer: Timer,
) -> dict[Variant, _Prepared]:
    """Leave out what would hold up all others; a first call's time is checked by a second one."""
    if not prepared:
        return prepared
    kept = dict(prepared)
    fastest = min(ready.first_seconds for ready in prepared.values())
    for variant, ready in prepared.items():
        limit = max(HOPELESS_SECONDS, HOPELESS_RATIO * fastest)
        if ready.first_seconds > limit and (again := timer(ready.run)) > limit:
            say(
                f"{group}: {variant} left out: {again:.1f} s a call, more than "
                f"{HOPELESS_RATIO:g} times the model's fastest variant"
            )
            del kept[variant]
    return kept


def _median_and_iqr(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], 0.0
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, high - low


def _naming_shortage(run: Callable[[], object], variant: Variant) -> Callable[[], object]:
    """The same function, but where it lacks memory in any of its calls, the variant is named."""

    def named() -> object:
        try:
            return run()
        except Exception as error:
            _name_shortage(error, str(variant))
            raise

    return named


def _name_shortage(error: Exception, name: str) -> None:
    """Say what does not fit if an error is about memory.

    Raises:
        OutOfMemoryError: It is.
    """
    if _is_out_of_memory(error):
        raise OutOfMemoryError(name) from None


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "t allocate memory" in text)
    )


def _reason(error: Exception) -> str:
    """The first line of what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
