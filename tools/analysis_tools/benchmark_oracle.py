"""A family's models against its literal formula: one process, taking turns, medians.

python tools/analysis_tools/benchmark_oracle.py FAMILY [--arch ARCH] [--device cpu|cuda] [--write
docs/performance.md]

The literal formula is the tests' oracle (tests/oracles/); for ConvMixer timm's and mmpretrain's
models stand in its place, for the dynamic convolutions timm's DeiT and Swin. All models hold the
same weights and run in both memory layouts; the better layout of each counts. bf16 compares
autocast with float32 for these models, and for timm's convnext_tiny. "ours folded" is the backbone
folded for inference. The memory of a training step is the peak of what its operators return beyond
the model and its gradients. ``--ways`` compares runtimes with the original, and nothing else.
"""

import argparse
import copy
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from mmpretrain.models.backbones import ConvMixer as MMPretrainConvMixer
from torch import Tensor, nn

from mmvitconv.analysis.benchmark import LAYOUTS
from mmvitconv.analysis.timing import REST, take_turns
from mmvitconv.cli.arguments import parse_shape
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
from mmvitconv.models.backbones import convmixer
from mmvitconv.runtime import PRECISIONS, accelerate, fold
from mmvitconv.runtime.graphs import OFTEN
from mmvitconv.weights import convert_state_dict
from mmvitconv.zoo.costs import peak_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from oracles import fcvit, lightvit, parc, reference
from shared import markdown_table, print_table

FOLDED = "ours folded"
WAYS = [f"{runtime} {precision}" for runtime, legal in PRECISIONS.items() for precision in legal]


class Features(nn.Module):
    """A model of another library with outputs like ours: a tuple of maps."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the model's method."""
        outs = getattr(self.model, self.method)(x)
        if isinstance(outs, dict):
            outs = [out for name, out in outs.items() if name != "logits"]
        return (outs,) if isinstance(outs, Tensor) else tuple(outs)


def convmixer_peers(arch: str) -> dict[str, nn.Module]:
    """Return the ConvMixers of timm and mmpretrain, with the same weights."""
    sizes = vars(convmixer.ARCHS[arch])
    dims, depth, kernel, patch, act = sizes.values()
    act_layer = getattr(nn, act)
    of_timm = timm.models.convmixer.ConvMixer(dims, depth, kernel, patch, act_layer=act_layer)
    of_mmpretrain = MMPretrainConvMixer(dict(sizes), act_cfg={"type": act})
    of_timm.load_state_dict(reference.fill_like(of_timm.state_dict()))
    of_mmpretrain.load_state_dict(
        {
            key.replace("blocks.", "stages."): value
            for key, value in of_timm.state_dict().items()
            if not key.startswith("head.")
        }
    )
    # mmpretrain's train() returns None, which eval() passes on
    return {
        "timm": Features(of_timm, "forward_features"),
        "mmpretrain": Features(of_mmpretrain, "forward"),
    }


def without_head(model: nn.Module, method: str = "forward") -> Features:
    """Return a classifier with the fill rule's weights that computes its maps only."""
    for name in ("classifier", "fc", "head"):
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, nn.Identity())
    return Features(filled(model), method)


def vit(arch: str) -> DynConvViT:
    """Return ours with a class token, whose tokens are all normed at the end."""
    return DynConvViT(arch, out_indices=(-1,), with_cls_token=True)


@dataclass(frozen=True)
class Job:
    """One row of the table."""

    trains: bool  # a training step, not a forward pass
    size: int  # side of the square images
    batch: int  # number of images
    options: tuple[tuple[str, int], ...] = ()  # of the family's two builders, as pairs

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the images."""
        return (self.batch, 3, self.size, self.size)

    def __str__(self) -> str:
        words = ["training step" if self.trains else "forward", f"{self.size}, batch {self.batch}"]
        return ", ".join([" ".join(words), *(f"{name}={n}" for name, n in self.options)])


@dataclass(frozen=True)
class Family:
    """What to compare, and at what."""

    arch: str  # default architecture
    # Builds what ours is compared with, by name, from an architecture's name and a job's options;
    # ours takes the weights of the first.
    others: Callable[..., dict[str, nn.Module]]
    ours: Callable[..., nn.Module]  # builds our backbone from the same
    jobs: tuple[Job, ...]


def filled(model: nn.Module) -> nn.Module:
    """Return the model with the fill rule's weights."""
    model.load_state_dict(reference.fill_like(model.state_dict()))
    return model


JOBS = (Job(False, 224, 1), Job(False, 512, 1), Job(True, 224, 2))
TOKENS = (("num_global_tokens", 512),)
FAMILIES = {
    "convmixer": Family(
        "768_32",
        convmixer_peers,
        lambda arch: ConvMixer(arch, out_indices=(-1,), pad_to_patch=False),
        (Job(False, 224, 1), Job(True, 224, 2)),
    ),
    "fcvit": Family(
        "s12",
        lambda arch: {"oracle": filled(fcvit.variant(arch))},
        FCViT,
        (Job(False, 224, 1), Job(False, 512, 1), Job(True, 224, 2), Job(False, 224, 8)),
    ),
    "lightvit": Family(
        "tiny",
        lambda arch, num_global_tokens=None: {
            "oracle": filled(lightvit.variant(arch, True, num_global_tokens))
        },
        LightViT,
        (
            Job(False, 224, 1),
            Job(False, 224, 2),
            Job(False, 512, 1),
            Job(False, 512, 1, TOKENS),
            Job(True, 224, 2),
            Job(True, 512, 1),
            Job(True, 512, 1, TOKENS),
        ),
    ),
    "parc_net": Family(
        "s",
        lambda arch: {"oracle": without_head(parc.parc_net(arch))},
        lambda arch: ParCNet(arch, out_indices=range(6)),
        JOBS,
    ),
    "parc_convnext": Family(
        "xt",
        lambda arch: {"oracle": without_head(parc.ParCConvNeXt(downstream=True))},
        ParCConvNeXt,
        JOBS,
    ),
    "parc_resnet": Family(
        "50", lambda arch: {"oracle": without_head(parc.ParCResNet50())}, ParCResNet, JOBS
    ),
    "parc_mobilenetv2": Family(
        "1.0",
        lambda arch: {"oracle": without_head(parc.ParCMobileNetV2())},
        lambda arch: ParCMobileNetV2(arch, out_indices=range(8)),
        JOBS,
    ),
    "dynconv_vit": Family(
        "small",
        lambda arch: {
            "timm": without_head(timm.create_model(f"deit_{arch}_patch16_224"), "forward_features")
        },
        vit,
        (JOBS[0], JOBS[2]),
    ),
    "dynconv_swin": Family(
        "tiny",
        lambda arch: {
            "timm": without_head(
                timm.create_model(f"swin_{arch}_patch4_window7_224"), "forward_features"
            )
        },
        lambda arch: DynConvSwin(arch, out_indices=(-1,)),
        (JOBS[0], JOBS[2]),
    ),
}


def build(family: str, arch: str, job: Job) -> dict[str, nn.Module]:
    """Return the models to compare, with the same weights; ours is the last, but for folded."""
    others = FAMILIES[family].others(arch, **dict(job.options))
    ours = FAMILIES[family].ours(arch, **dict(job.options))
    first = next(iter(others.values()))
    state_dict = (first.model if isinstance(first, Features) else first).state_dict()
    converted = convert_state_dict(state_dict, family)
    ours.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in converted.items() if k.startswith("backbone.")}
    )
    return {**others, "ours": ours, FOLDED: fold(copy.deepcopy(ours).eval(), inplace=True)}


def in_layout(
    model: nn.Module, shape: Sequence[int], layout: str, device: str
) -> tuple[nn.Module, Tensor]:
    """Return a copy of the model and images of a shape in a memory layout."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = copy.deepcopy(model).to(device, memory_format=LAYOUTS[layout])
    return model, x.to(device).contiguous(memory_format=LAYOUTS[layout])


def forward(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Callable[[], None]:
    """Return a forward pass in evaluation mode, under autocast when a dtype is given."""
    model.eval()

    def run() -> None:
        with torch.no_grad(), torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            model(x)

    return run


def training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return forward and backward in training mode, with a random gradient for each output.

    Not that of a plain sum or mean: behind a normalisation it is zero up to rounding, and
    arithmetic on such denormal numbers is slow.
    """
    model.train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weights = [
            torch.randn(out.shape, generator=generator).to(out).contiguous() for out in model(x)
        ]

    def run() -> None:
        model.zero_grad()
        sum((out * w).sum() for out, w in zip(model(x), weights, strict=True)).backward()

    return run


def measure(functions: dict[str, Callable[[], None]], rounds: int, title: str) -> dict:
    """Return median and quartiles in milliseconds of each function; they take turns."""
    print(f"{title} ...", file=sys.stderr, flush=True)
    times = take_turns(functions, rounds, warm_up=3)
    results = {}
    for name, seconds in times.items():
        values = [1e3 * value for value in seconds]
        results[name] = (statistics.median(values), statistics.quantiles(values, n=4))
    return results


def measure_job(models: dict[str, nn.Module], job: Job, rounds: int, device: str) -> list[str]:
    """Return a row of the table of times."""
    step = training_step if job.trains else forward
    if job.trains:  # the folded one cannot
        models = {name: model for name, model in models.items() if name != FOLDED}
    results = measure(
        {
            f"{name} {layout}": step(*in_layout(model, job.shape, layout, device))
            for name, model in models.items()
            for layout in LAYOUTS
        },
        rounds if job.size * job.batch < 1000 else max(rounds // 2, 5),
        str(job),
    )
    cells = [f"{m:.1f} ({q[0]:.1f}-{q[2]:.1f})" for m, q in results.values()]
    if job.trains:
        cells += ["-", "-"]
    best = {name: min(results[f"{name} {la}"][0] for la in LAYOUTS) for name in models}
    ours = min(best.pop(name) for name in ("ours", FOLDED) if name in best)
    return [str(job), *cells, f"{min(best.values()) / ours:.2f}x"]


def measure_bf16(models: dict[str, nn.Module], rounds: int, device: str) -> list[list[str]]:
    """Return the table of reduced precision."""
    job = Job(False, 224, 2)
    dtypes = {"fp32": None, "bf16": torch.bfloat16}
    functions = {
        f"{name} {layout} {label}": forward(*in_layout(model, job.shape, layout, device), dtype)
        for name, model in models.items()
        for layout in LAYOUTS
        for label, dtype in dtypes.items()
    }
    results = measure(functions, rounds, "bf16")
    rows = []
    for name in models:
        full, half = (min(results[f"{name} {la} {d}"][0] for la in LAYOUTS) for d in dtypes)
        rows.append([name, f"{full:.1f}", f"{half:.1f}", f"{half / full:.2f}"])
    return rows


def measure_runtimes(
    models: dict[str, nn.Module], shape: tuple[int, int], ways: Sequence[str], rounds: int
) -> list[str]:
    """Return a row of the table of runtimes: how many times faster than the original, one image."""
    job_shape = (1, 3, *shape)
    functions = {
        (name, layout): forward(*in_layout(model, job_shape, layout, "cpu"))
        for name, model in models.items()
        if not name.startswith("ours")
        for layout in LAYOUTS
    }
    originals = list(functions)
    ours, x = in_layout(models["ours"].eval(), job_shape, "nchw", "cpu")
    for way in ways:
        runtime, precision = way.split()
        fast = accelerate(ours, runtime, precision, calibration=[x])
        functions[way] = forward(fast, x)
    # shapes that stay have graphs of their own after OFTEN calls
    times = take_turns(functions, rounds, warm_up=OFTEN + 1, rest=REST)
    medians = {key: 1e3 * statistics.median(seconds) for key, seconds in times.items()}
    original = min(medians[key] for key in originals)
    ratios = [f"{medians[way]:.1f} ({original / medians[way]:.2f}x)" for way in ways]
    return [f"{shape[0]}x{shape[1]}", f"{original:.1f}", *ratios]


def measure_memory(models: dict[str, nn.Module], job: Job, device: str) -> list[str]:
    """Return a row of the table of memory."""
    best = []
    for name, model in models.items():
        if name == FOLDED:  # cannot be trained
            continue
        peaks = []
        for layout in LAYOUTS:
            step = training_step(*in_layout(model, job.shape, layout, device))
            step()  # gradients are there before
            peaks.append(peak_memory(step, device))
        best.append(f"{min(peaks) / 2**20:.0f}")
    return [str(job), *best]


def markers(name: str) -> tuple[str, str]:
    """Return the lines between which a document has the tables of a family or one of its sizes."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write(path: Path, name: str, text: list[str]) -> None:
    """Put text between the markers of that name."""
    begin, end = markers(name)
    before, _, rest = path.read_text().partition(begin)
    path.write_text("\n".join([before + begin, *text, end]) + rest.partition(end)[2])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--arch", help="default: " + ", ".join(
        f"{name} {family.arch}" for name, family in FAMILIES.items()))  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=25, help="at least 2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="'RUNTIME PRECISION'")
    parser.add_argument(
        "--shapes", nargs="+", type=parse_shape, default=[(224, 224)], metavar="HxW",
        help="of --ways")  # fmt: skip
    parser.add_argument(
        "--write", type=Path, help="put the tables between the family's markers of this file"
    )
    args = parser.parse_args()
    family = FAMILIES[args.family]
    arch = args.arch or family.arch
    name = args.family if arch == family.arch else f"{args.family} {arch}"
    if args.write and not all(line in args.write.read_text() for line in markers(name)):
        lines = " and ".join(markers(name))
        parser.error(f"{args.write} lacks the lines {lines}; add them where the tables belong")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    if args.ways:
        models = build(args.family, arch, Job(False, 224, 1))
        rows = [measure_runtimes(models, each, args.ways, args.rounds) for each in args.shapes]
        print_table(
            f"{args.family} {arch}, one image, milliseconds (times faster than the original)",
            ["", "original", *args.ways], rows, width=140)  # fmt: skip
        return
    rows = [
        measure_job(build(args.family, arch, job), job, args.rounds, args.device)
        for job in family.jobs
    ]
    job = next(job for job in family.jobs if job.trains)
    models = build(args.family, arch, job)
    memory = measure_memory(models, job, args.device)
    models = build(args.family, arch, family.jobs[0])
    names = list(models)
    models["convnext_tiny"] = timm.create_model("convnext_tiny")
    bf16_rows = measure_bf16(models, args.rounds, args.device)

    where = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
    setting = (
        f"`python tools/analysis_tools/benchmark_oracle.py {args.family} --arch {arch} "
        f"--rounds {args.rounds}`, "
        f"{where}, {args.threads} threads, torch {torch.__version__}, timm {timm.__version__}"
    )
    tables = [
        (f"{args.family} {arch}, milliseconds: median (quartiles)",
         ["", *(f"{n} {la}" for n in names for la in LAYOUTS), "best / best"], rows),
        ("Memory of a training step, the better layout, MiB",
         ["", *(n for n in names if n != FOLDED)], [memory]),
        ("bf16 autocast, forward 224, batch 2, best layout, milliseconds",
         ["", "fp32", "bf16", "bf16 / fp32"], bf16_rows),
    ]  # fmt: skip
    text = [setting, ""]
    for table in tables:
        print_table(*table, width=140)
        text += [f"{table[0]}:", "", markdown_table(*table[1:]), ""]
    if args.write:
        write(args.write, name, text)


if __name__ == "__main__":
    main()
