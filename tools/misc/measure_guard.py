"""Measure what the guard against non-finite numbers costs, as a share of the training itself.

python tools/misc/measure_guard.py configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py
    [--cfg-options KEY=VALUE ...]

Trains one epoch on the CPU and takes the processor's time of each iteration and, within it, of the
guard: in turns, in one process. The norm of the gradients that clipping needs anyway is not counted
where the guard finds it for both. The check in front of each checkpoint is compared with the epoch.
Medians are printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from mmvitconv.cli import execute
from mmvitconv.cli.arguments import add_config_arguments, read_config


def timed(owner: Any, name: str, spent: list[float]) -> None:
    """Add the seconds of each call of a method to the last item of a list."""
    original: Callable = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[-1] += time.process_time() - begin

    setattr(owner, name, call)


def measure(options: argparse.Namespace) -> None:
    """Train an epoch and print the shares."""
    cfg = read_config(options, print)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir, cfg.launcher = folder, "none"
        cfg.train_cfg.max_epochs = 1
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        from mmvitconv.checks import non_finite
        from mmvitconv.engine import runner as engine

        engine.choose_exact_loop(cfg)
        runner = engine.build(cfg, lambda: None)
        guard = next(h for h in runner.hooks if isinstance(h, non_finite.NonFiniteHook))
        loop = runner.build_train_loop(runner._train_loop)
        runner._train_loop = loop
        inside, whole, saving, clipping = [0.0], [0.0], [0.0], [0.0]
        for name in ("before_train_iter", "_check", "after_train_iter"):
            timed(guard, name, inside)
        timed(non_finite, "get_total_norm", clipping)
        timed(guard, "_look", saving)
        run_iter = loop.run_iter

        def iteration(*args: Any) -> None:
            for part in (inside, whole, clipping):
                part.append(0.0)
            begin = time.process_time()
            run_iter(*args)
            whole[-1] = time.process_time() - begin

        loop.run_iter = iteration
        begin = time.process_time()
        runner.train()
        epoch = time.process_time() - begin
    inside = [all_ - norm for all_, norm in zip(inside, clipping, strict=True)]
    shares = [part / total for part, total in zip(inside[2:], whole[2:], strict=True)]
    print(f"iterations: {len(shares)}, median {median(whole[2:]) * 1e3:.0f} ms")
    print(f"guard: median {median(inside[2:]) * 1e3:.1f} ms, {median(shares):.2%} of an iteration")
    print(f"check before saving: {saving[0] * 1e3:.1f} ms, {saving[0] / epoch:.3%} of an epoch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "measure_guard.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    return execute(parser, lambda: measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
