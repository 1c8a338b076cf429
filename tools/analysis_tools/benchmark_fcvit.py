"""FCViT's fast paths against the literal formula, in one process, alternating, medians.

python tools/analysis_tools/benchmark_fcvit.py [--arch s12] [--device cpu|cuda] [--write
docs/performance.md]

The literal formula is the tests' oracle (tests/oracles/fcvit.py), in both memory layouts; the
better one counts. bf16 compares autocast with float32 for the oracle, for ours and for timm's
convnext_tiny.
"""

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from mmvitconv.models import FCViT
from mmvitconv.weights import convert_state_dict

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from oracles.fcvit import VARIANTS, variant  # noqa: E402

MARKERS = ("<!-- fcvit: begin -->", "<!-- fcvit: end -->")


def measure(functions: dict[str, Callable[[], None]], rounds: int, device: str, title: str) -> dict:
    """Median and quartile spread in milliseconds of each function; they take turns."""
    sync = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in track(range(-3, rounds), description=title, transient=True):
        for name, function in functions.items():
            sync()
            start = time.perf_counter()
            function()
            sync()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: (statistics.median(t), statistics.quantiles(t, n=4)) for name, t in times.items()}


def forward(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Callable[[], None]:
    """A forward pass in evaluation mode, under autocast when a dtype is given."""
    model = copy.deepcopy(model).eval()

    def run() -> None:
        with torch.no_grad(), torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            model(x)

    return run


def training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward and backward in training mode."""
    model = copy.deepcopy(model).train()

    def run() -> None:
        model.zero_grad()
        sum(out.float().mean() for out in model(x)).backward()

    return run


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="s12", choices=VARIANTS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", type=Path, help="put the table between the markers of this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    oracle = variant(args.arch).eval()
    ours = FCViT(args.arch).eval()
    converted = convert_state_dict(oracle.state_dict(), "fcvit")
    ours.load_state_dict({k.removeprefix("backbone."): v for k, v in converted.items()})
    convnext = timm.create_model("convnext_tiny").eval()
    layouts = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

    def in_layout(model: nn.Module, size: int, batch: int, layout: str) -> tuple[nn.Module, Tensor]:
        model = copy.deepcopy(model).to(args.device, memory_format=layouts[layout])
        x = torch.randn(batch, 3, size, size, device=args.device)
        return model, x.contiguous(memory_format=layouts[layout])

    rows = []
    jobs = [
        ("forward", forward, 224, 1),
        ("forward", forward, 512, 1),
        ("training step", training_step, 224, 2),
        ("forward", forward, 224, 8),
    ]
    for title, job, size, batch in jobs:
        results = measure(
            {
                f"{name} {layout}": job(*in_layout(model, size, batch, layout))
                for name, model in (("oracle", oracle), ("ours", ours))
                for layout in layouts
            },
            args.rounds if size * batch < 1000 else max(args.rounds // 2, 5),
            args.device,
            f"{title} {size}, batch {batch}",
        )
        medians = {name: median for name, (median, _) in results.items()}
        best = {n: min(medians[f"{n} {layout}"] for layout in layouts) for n in ("oracle", "ours")}
        cells = [f"{m:.1f} ({q[0]:.1f}-{q[2]:.1f})" for m, q in results.values()]
        rows.append(
            [f"{title} {size}, batch {batch}", *cells, f"{best['oracle'] / best['ours']:.2f}x"]
        )

    functions = {}
    for name, model in (("oracle", oracle), ("ours", ours), ("convnext_tiny", convnext)):
        for layout in layouts:
            for label, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
                functions[f"{name} {layout} {label}"] = forward(
                    *in_layout(model, 224, 2, layout), dtype=dtype
                )
    results = {k: m for k, (m, _) in measure(functions, args.rounds, args.device, "bf16").items()}
    bf16_rows = []
    for name in ("oracle", "ours", "convnext_tiny"):
        best = {d: min(results[f"{name} {la} {d}"] for la in layouts) for d in ("fp32", "bf16")}
        cells = [f"{best['fp32']:.1f}", f"{best['bf16']:.1f}", f"{best['bf16'] / best['fp32']:.2f}"]
        bf16_rows.append([name, *cells])

    where = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
    setting = (
        f"`python tools/analysis_tools/benchmark_fcvit.py --arch {args.arch}`, "
        f"{where}, {args.threads} threads, torch {torch.__version__}, timm {timm.__version__}"
    )
    tables = [
        (f"FCViT-{args.arch}, milliseconds: median (quartiles)",
         ["", "oracle nchw", "oracle nhwc", "ours nchw", "ours nhwc", "best / best"], rows),
        ("bf16 autocast, forward 224, batch 2, best layout, milliseconds",
         ["", "fp32", "bf16", "bf16 / fp32"], bf16_rows),
    ]  # fmt: skip
    for title, head, body in tables:
        table = Table(*head, title=title)
        for row in body:
            table.add_row(*row)
        Console(width=140).print(table)
    if args.write:
        text = [setting, ""]
        for title, head, body in tables:
            text += [f"{title}:", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
            text += [*(f"| {' | '.join(row)} |" for row in body), ""]
        document = args.write.read_text()
        before, _, rest = document.partition(MARKERS[0])
        after = rest.partition(MARKERS[1])[2]
        args.write.write_text("\n".join([before + MARKERS[0], *text, MARKERS[1]]) + after)


if __name__ == "__main__":
    main()
