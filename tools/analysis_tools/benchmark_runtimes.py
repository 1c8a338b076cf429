"""How much faster runtimes are than eager code, in one process.

python tools/analysis_tools/benchmark_runtimes.py [MODEL ...]

All runtimes and precisions of a model are in one process and take turns, call by call. A table has
the median milliseconds of folded eager code and, for each runtime, how many times faster its median
is. Models are backbones with random weights (``fcvit_s12``, ``timm:convnext_tiny``), or configs,
whose ``Predictor`` looks at one image with everything that belongs to it. Of int8 the ranges of a
backbone come from the image itself, those of a config from its data.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch

from mmvitconv.analysis.benchmark_results import device_name
from mmvitconv.analysis.timing import REST, take_turns
from mmvitconv.apis.inference import Predictor
from mmvitconv.cli import execute
from mmvitconv.cli.arguments import parse_shape, positive
from mmvitconv.resources import is_config
from mmvitconv.runtime import PRECISIONS, accelerate
from mmvitconv.runtime.graphs import OFTEN
from mmvitconv.zoo.loading import load_model

MODELS = ["fcvit_s12", "lightvit_tiny", "parc_convnext_xt", "parcnet_s", "DynConvSwin:tiny",
          "convmixer_1024_20"]  # fmt: skip
WAYS = [f"{runtime} {precision}" for runtime, legal in PRECISIONS.items() for precision in legal]
DEFAULT = ["openvino fp32", "openvino bf16", "onnxruntime fp32"]


def make_call(
    name: str, way: str, shape: Sequence[int], checkpoint: str | None
) -> Callable[[], object]:
    """Return a function that runs a model on one image, once with a runtime and a precision."""
    runtime, precision = way.split()
    if is_config(name):
        predictor = Predictor(name, checkpoint, "cpu", runtime=runtime, precision=precision)
        image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
        return lambda: predictor.predict(image)
    model = load_model(name, part="backbone", device="cpu", shape=shape).module
    x = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    model = accelerate(model, runtime, precision, inplace=True, calibration=[x])
    return torch.inference_mode()(lambda: model(x))


def measure(name: str, shape: Sequence[int], options: argparse.Namespace) -> str:
    """Return the row of a model."""
    ways = ("eager fp32", *options.ways)
    calls = {way: make_call(name, way, shape, options.checkpoint) for way in ways}
    taken = take_turns(calls, options.rounds, OFTEN + 1, rest=REST)
    times = {way: median(each) for way, each in taken.items()}
    eager = times.pop("eager fp32")
    ratios = " | ".join(f"{eager / each:.2f}x" for each in times.values())
    return f"| {name} | {shape[0]}x{shape[1]} | {1e3 * eager:.1f} | {ratios} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0, or 1 after an error that the user can fix.
    """
    parser = argparse.ArgumentParser(
        "benchmark_runtimes.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="*", default=MODELS, help="architectures, timm:NAME or configs")
    add("--checkpoint", help="weights of the config (default: random ones)")
    add("--shapes", nargs="+", type=parse_shape, default=[(224, 224)], metavar="HxW")
    add("--ways", nargs="+", choices=WAYS, default=DEFAULT, metavar="'RUNTIME PRECISION'")
    add("--rounds", type=positive, default=20)
    add("--threads", type=positive, default=torch.get_num_threads())

    def work() -> None:
        options = parser.parse_args(arguments)
        torch.set_num_threads(options.threads)
        warnings.simplefilter("ignore")
        print(f"{device_name('cpu')}, {options.threads} threads, torch {torch.__version__}\n")
        print(f"| model | size | eager ms | {' | '.join(options.ways)} |")
        print(f"| --- | --- | ---: |{' ---: |' * len(options.ways)}")
        for shape in options.shapes:
            for name in options.models:
                print(measure(name, shape, options), flush=True)

    return execute(parser, work)


if __name__ == "__main__":
    sys.exit(main())
