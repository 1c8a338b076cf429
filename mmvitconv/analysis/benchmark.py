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
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from difflib import get_close_matches
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark.utils.common import set_torch_threads

from mmvitconv.analysis import timing
from mmvitconv.analysis.benchmark_results import Row, device_name
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.models.base import Backbone
from mmvitconv.runtime import accelerate, fold
from mmvitconv.weights.addresses import address_of
from mmvitconv.weights.index import find_weights
from mmvitconv.zoo.archs import check_timm_name, match_arch
from mmvitconv.zoo.catalogue import list_archs
from mmvitconv.zoo.costs import count_image, peak_memory
from mmvitconv.zoo.loading import INDEX, TIMM, load_model

__all__ = ["PEERS", "Plan", "all_archs", "build", "find_models", "run_benchmark", "smallest_archs"]

Shape = tuple[int, int]

# What everybody knows, under the names by which everybody knows it.
PEERS = {
    "resnet50": "resnet50",
    "convnext_tiny": "convnext_tiny",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "convmixer": "convmixer_768_32",
}
# ImageNet-1k top-1 at 224; tests/configs/test_sources.py holds it against configs/sources.yml.
PEER_ACCURACY = {
    "resnet50": 76.13,
    "convnext_tiny": 82.1,
    "swin_tiny_patch4_window7_224": 81.2,
    "convmixer_768_32": 80.16,
    "repvit_m0_9": 78.7,
    "repvit_m1_5": 82.3,
    "convnextv2_femto": 78.5,
    "convnextv2_nano": 81.9,
    "deit_small_patch16_224": 79.9,
}

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
LEARNING_RATE = 1e-5  # small: the weights stay what they are
# So many times slower than its model's fastest variant, and slow at all: it would hold up the rest.
HOPELESS_RATIO, HOPELESS_SECONDS = 10.0, 1.0
INPUT = "the input"  # as what does not fit into memory
Variant = tuple[str, str, str, str]  # model, dtype, layout, mode
Call = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """What is measured: all combinations."""

    models: Mapping[str, Callable[[Shape], nn.Module]]  # what builds it, by name
    shape: Sequence[Shape] = ((224, 224),)  # heights and widths of the images
    batch: Sequence[int] = (1,)
    dtype: Sequence[str] = ("fp32",)  # the reduced ones by autocast: weights stay float32
    layout: Sequence[str] = ("nchw", "nhwc")  # of images and weights
    mode: Sequence[str] = ("eager",)  # or "compiled" (torch.compile), or a runtime's name
    pass_: Sequence[str] = ("inference",)  # or "training": forward, backward and a step of AdamW
    device: str = "cpu"
    threads: int | None = None  # on the CPU; None for as many as torch takes
    rounds: int = 20
    warm_up: int = 2
    seconds: float | None = None  # of the counted calls of one size, batch and pass
    folds: bool = True  # whether models are folded for inference

    def keys(self) -> set[tuple[Any, ...]]:
        """Return the keys of all rows that it asks for."""
        shapes = ["x".join(map(str, shape)) for shape in self.shape]
        ways = (self.batch, self.dtype, self.layout, self.mode, self.pass_)
        return set(product(self.models, shapes, *ways))


def tell(line: str) -> None:
    """Print a line for whoever waits."""
    print(line, file=sys.stderr, flush=True)


def run_benchmark(plan: Plan, left_out: list[str]) -> Iterator[list[Row]]:
    """Measure a plan, group by group: what takes turns has one size, batch and pass.

    What cannot be measured (a type that the device is slow at, a model that does not take the size,
    a failed compilation) is left out; a batch that does not fit into memory is halved for all
    models. Titles and what is left out are printed to stderr.

    Args:
        plan: What to measure.
        left_out: Gets a line about what was left out, and why.

    Yields:
        The rows of each group.

    Raises:
        UserError: No dtype is left, or the device is not there.
    """

    def say(line: str) -> None:
        left_out.append(line)
        tell(line)

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no GPU here; give cpu")
    dtypes = dict.fromkeys(plan.dtype)
    if plan.device == "cpu" and "fp16" in dtypes:
        say("fp16: CPUs have no fast kernels for it; left out, bf16 is their reduced type")
        del dtypes["fp16"]
    if not dtypes:
        raise UserError(f"no dtype is left to measure; give one of {', '.join(DTYPES)}")
    plan = replace(plan, dtype=list(dtypes))
    # Where a model's graph breaks, the code of its class is compiled, which others share. With
    # torch's limit of 8 versions the ninth would run eagerly, without a word.
    limits = {"cache_size_limit": 4096, "accumulated_cache_size_limit": 65536}
    compiles = "compiled" in plan.mode
    with (
        set_torch_threads(plan.threads or torch.get_num_threads()),
        torch.backends.cudnn.flags(enabled=True, benchmark=True),  # sizes are fixed
        torch._dynamo.config.patch(limits) if compiles else nullcontext(),
    ):
        done: set[tuple[Any, ...]] = set()
        for pass_, shape, batch in product(plan.pass_, plan.shape, plan.batch):
            without: set[str] = set()
            while (pass_, shape, batch) not in done:
                group = _Group(plan, pass_, shape, batch, without, say)
                tell(f"{group} ...")
                try:
                    rows = group.measure()
                except Exception as error:
                    if not _lacks_memory(error):
                        raise
                else:
                    done.add((pass_, shape, batch))
                    yield rows
                    continue
                finally:
                    if compiles:
                        torch._dynamo.reset()  # frees what was compiled for this group
                # Only here: an error that is still handled keeps the group's tensors alive.
                gc.collect()
                if plan.device == "cuda":
                    torch.cuda.empty_cache()
                line = f"{group}: {group.busy_with} does not fit into memory"
                if batch == 1:
                    say(f"{line}; left out")
                    without.add(group.busy_with)
                else:
                    batch //= 2
                    say(f"{line}; batch {batch} for all models")


def _fold(model: nn.Module) -> nn.Module:
    """Return a model as it is served: ours folded, timm's with its branches merged (RepViT)."""
    from timm.utils import reparameterize_model

    model = fold(model, inplace=True)
    return model if isinstance(model, Backbone) else reparameterize_model(model, inplace=True)


def _lacks_memory(error: Exception) -> bool:
    words = ("out of memory", "t allocate memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


@dataclass
class _Group:
    """All models and variants of one size, batch and pass."""

    plan: Plan
    pass_: str
    shape: Shape
    batch: int
    without: set[str]  # what does not fit into memory
    say: Callable[[str], object]
    busy_with: str = INPUT  # what does not fit if memory lacks now
    costs: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.pass_} {self.shape[0]}x{self.shape[1]} batch {self.batch}"

    def attempt(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a function returns; None if it does not fit or fails, which is said."""
        if name in self.without:
            return None
        self.busy_with = name
        try:
            return function(*args)
        except Exception as error:
            if _lacks_memory(error) or isinstance(error, CheckpointError):
                raise
            reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            self.say(f"{self}: {name} left out: {reason.strip()}")
            return None

    def measure(self) -> list[Row]:
        """Return the rows of all that can be measured."""
        if INPUT in self.without:
            return []
        plan = self.plan
        images = random_tensor((self.batch, 3, *self.shape), seed=0).to(plan.device)
        prepared: dict[Variant, tuple[Call, float]] = {}
        for name in plan.models:
            if (model := self.attempt(name, self.build, name)) is not None:
                prepared |= self.prepare(name, model, images)
        calls = {variant: call for variant, (call, _) in prepared.items()}
        rest = timing.REST if set(plan.mode) - {"eager", "compiled"} else 0.0  # other engines
        times = timing.take_turns(calls, plan.rounds, plan.warm_up, plan.seconds, rest)
        return [self.row(variant, *prepared[variant], times[variant]) for variant in times]

    def build(self, name: str) -> nn.Module:
        """Return a model, and note its costs."""
        model = self.plan.models[name](self.shape)
        costs = count_image(model, 3, self.shape)
        self.costs[name] = (costs.params, costs.macs.total)
        is_folded = self.plan.folds and self.pass_ == "inference"
        return _fold(model.eval()) if is_folded else model

    def prepare(
        self, name: str, model: nn.Module, images: Tensor
    ) -> dict[Variant, tuple[Call, float]]:
        """Return all variants of a model that run, with the seconds of a first call."""
        found: dict[Variant, tuple[Call, float]] = {}
        for layout, mode, dtype in product(self.plan.layout, self.plan.mode, self.plan.dtype):
            variant = (name, dtype, layout, mode)
            ready = self.attempt(" ".join(variant), self.start, variant, model, images)
            if ready is not None:
                found[variant] = ready
        fastest = min((seconds for _, seconds in found.values()), default=0.0)
        limit = max(HOPELESS_SECONDS, HOPELESS_RATIO * fastest)
        for variant, (call, first) in list(found.items()):
            # A first call's time is checked by another.
            if first > limit and (again := timing.clock(call)) > limit:
                self.say(
                    f"{self}: {' '.join(variant)} left out: {again:.1f} s a call, more than "
                    f"{HOPELESS_RATIO:g} times the model's fastest variant"
                )
                del found[variant]
        return found

    def start(self, variant: Variant, model: nn.Module, images: Tensor) -> tuple[Call, float]:
        """Return what is timed, and the seconds of its first call, which compiles."""
        form = LAYOUTS[variant[2]]
        model = copy.deepcopy(model).to(self.plan.device, memory_format=form)
        x = images.contiguous(memory_format=form)
        call = _make_call(model, x, variant, self.pass_ == "training")

        def run() -> object:
            self.busy_with = " ".join(variant)  # any call may lack memory
            return call()

        return run, timing.clock(run)

    def row(self, variant: Variant, call: Call, first: float, seconds: Sequence[float]) -> Row:
        """Return the row of a variant."""
        model, dtype, layout, mode = variant
        params, macs = self.costs[model]
        device, is_compiled = self.plan.device, mode == "compiled"
        times = [1e3 * value for value in seconds] * (2 if len(seconds) == 1 else 1)
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        # Compiled code hides its tensors from the count of a CPU.
        is_known = not (is_compiled and device == "cpu")
        return Row(
            model=model,
            params=params,
            macs=macs,
            shape="x".join(map(str, self.shape)),
            batch=self.batch,
            dtype=dtype,
            layout=layout,
            mode=mode,
            pass_=self.pass_,
            median_ms=median,
            iqr_ms=high - low,
            min_ms=min(times),
            images_per_s=1e3 * self.batch / median,
            peak_mb=peak_memory(call, device) / 2**20 if is_known else None,
            compile_s=first if is_compiled else None,
            rounds=len(seconds),
            threads=torch.get_num_threads(),
            device=device_name(device),
            torch=torch.__version__,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            folded=int(self.plan.folds and self.pass_ == "inference"),
        )


def _make_call(model: nn.Module, x: Tensor, variant: Variant, trains: bool) -> Call:
    """Return a function that runs a model once: in inference, or in a step of training."""
    model.train(trains)
    call: Any = model
    if variant[3] in ("eager", "compiled"):
        if variant[1] == "int8":
            raise UserError(f"{variant[3]} code has no precision int8; give the runtime openvino")
    else:
        if trains:
            raise UserError(f"the runtime {variant[3]} does not train")
        call = accelerate(
            model, variant[3], variant[1], sizes=[x.shape[2:]], inplace=True, calibration=[x]
        )
        return torch.inference_mode()(lambda: call(x))
    if variant[3] == "compiled":
        # Compiled versions belong to code, and each call looks through those of its code. Models
        # that were compiled under one forward would slow each other down.
        def own(x: Tensor) -> Any:
            return model(x)

        code = own.__code__.replace()
        own = types.FunctionType(code, own.__globals__, closure=own.__closure__)
        call = torch.compile(own, dynamic=False)
    dtype, device = DTYPES[variant[1]], x.device.type

    def forward() -> Any:
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            return call(x)

    if not trains:
        return torch.inference_mode()(forward)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
    # Behind a norm the gradient of a plain sum is zero up to rounding, and arithmetic on such
    # denormal numbers is slow.
    factors: list[Tensor] = []

    def step() -> None:
        outs = forward()
        for out in outs[len(factors) :]:
            noise = random_tensor(out.shape, seed=1).to(out.device, out.dtype)
            factors.append(noise / math.sqrt(out.numel()))
        loss = sum((out * factor).sum() for out, factor in zip(outs, factors, strict=True))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()  # frees them while the others have their turn

    return step


def random_tensor(shape: Sequence[int], seed: int) -> Tensor:
    """Return the same normal numbers each time."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def all_archs() -> list[str]:
    """Return ``FAMILY:ARCH`` of every architecture; of two names for one arch the first."""
    return [f"{arch.family}:{arch.arch}" for arch in list_archs()]


def smallest_archs() -> list[str]:
    """Return ``FAMILY:ARCH`` of the architecture with the fewest parameters in each family."""
    smallest: dict[str, str] = {}
    for arch in sorted(list_archs(), key=lambda arch: arch.parameters):
        smallest.setdefault(arch.family, f"{arch.family}:{arch.arch}")
    return [name for name in all_archs() if name in smallest.values()]


def find_models(names: Sequence[str], peers: bool = False) -> list[str]:
    """Return the names that results have for models: ``'FCViT:tiny'``, or timm's name.

    Args:
        names: ``FAMILY:ARCH``, another spelling that :func:`match_arch` takes,
            ``mmvitconv://NAME`` of published weights, a key of :data:`PEERS`, or ``timm:NAME``.
        peers: Whether timm's own names of :data:`PEERS` are timm's models. Some of them are also
            spellings of architectures of ours.

    Raises:
        UserError: There is no such model.
    """
    found = []
    for name in names:
        if name in PEERS or name.startswith(TIMM) or (peers and name in PEERS.values()):
            found.append(PEERS.get(name, name.removeprefix(TIMM)))
            check_timm_name(found[-1])
            continue
        address = address_of(name)
        if address.startswith(INDEX):
            found.append(find_weights(address.removeprefix(INDEX)).uri)
            continue
        try:
            found.append(":".join(match_arch(name)))
        except UserError as error:
            near = get_close_matches(name.lower(), PEERS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = f"of timm there are {', '.join(PEERS)}, and timm:NAME for all others"
            raise UserError(f"{error}; {hint}{known}") from error
    return list(dict.fromkeys(found))


def build(name: str, shape: Shape, checkpoint: str | None = None) -> nn.Module:
    """Return the backbone of a name of :func:`find_models`, with the outputs of all stages.

    Args:
        name: The name; that of published weights brings its checkpoint along.
        shape: Height and width of the images in pixels.
        checkpoint: File or address of its weights; None for random ones.
    """
    source = name if ":" in name else f"{TIMM}{name}"
    return load_model(source, checkpoint, part="backbone", device="cpu", shape=shape).module
