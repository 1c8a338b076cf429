"""Train a classifier, detector or segmentor."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmvitconv.cli.runs import (
    add_run_arguments,
    check,
    errors_before_loop,
    make_say,
    need_all,
    start,
)
from mmvitconv.datasets.layout import check_data
from mmvitconv.engine import runner as engine

if TYPE_CHECKING:
    from mmengine.config import Config

OTHER_STARTS = (
    "; or start from a file of yours (--weights FILE) or from random weights (--from-scratch)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint, or from the last one in a work directory; without PATH from "
        "the last one in this run's, and from the start where there is none",
    )
    parser.add_argument(
        "--resume-schedule",
        choices=("config", "checkpoint"),
        default="config",
        help="whose learning rate and schedule count with --resume where they differ (default: "
        "%(default)s)",
    )
    start_from = parser.add_mutually_exclusive_group()
    start_from.add_argument(
        "--weights",
        metavar="FILE",
        help="file, address or mmvitconv://NAME that the backbone starts from, instead of what "
        "the config names",
    )
    start_from.add_argument("--from-scratch", action="store_true", help="start from random weights")
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision with bfloat16, on GPU and CPU"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="multiply the learning rate by total batch / auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--no-rehearsal",
        action="store_true",
        help="start without a trial of one validation batch and of the evaluator",
    )
    parser.add_argument("--no-validate", action="store_true", help="train without validation")


def _choose_start(options: argparse.Namespace, cfg: Config, say: Callable[[str], None]) -> None:
    """Choose what the training goes on or starts from; fetch it, or raise."""
    for note in engine.choose_start(cfg, options.resume):
        say(note)
    from mmvitconv.engine.initial_weights import choose_initial_weights  # imports torch

    choose_initial_weights(cfg, options.weights, options.from_scratch)
    engine.check_pretrained(cfg, OTHER_STARTS if options.weights is None else "")


def run(options: argparse.Namespace) -> None:
    """Train a model and say where the results are.

    Raises:
        UserError: The input cannot work.
    """
    say = make_say(options)
    with errors_before_loop() as loop:
        cfg = start(options)
        engine.require(cfg, ("train_dataloader", "train_cfg", "optim_wrapper"), "to train")
        if options.no_validate:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        splits = ("train",) if cfg.get("val_dataloader") is None else ("train", "val")
        need_all(lambda: check_data(cfg, splits=splits), lambda: _choose_start(options, cfg, say))
        check(options, cfg, splits, loop)
        if options.auto_scale_lr:
            engine.enable_learning_rate_scaling(cfg)
        if options.amp:
            engine.enable_amp(cfg)
        engine.choose_exact_loop(cfg)
        command = "python tools/train.py" if options.program == "train.py" else options.program
        options.advice = (
            f"Go on from the last checkpoint: {command} {options.config} "
            f"--work-dir {cfg.work_dir} --resume"
        )
        hooks: list = ["mmvitconv.ZeroLossHook"]
        if not options.no_rehearsal:
            hooks.append("mmvitconv.RehearsalHook")
        if options.resume_schedule != "config":
            kind = "mmvitconv.SafeCheckpointHook"
            hooks.append({"type": kind, "resume_schedule": options.resume_schedule})
        runner = engine.build(
            cfg, loop.begin, hooks, compile_backbone=options.compile, on_ready=loop.get_ready
        )
        engine.check_batch_size(runner)
        loop.explain_by_annotations(cfg, splits)
        runner.train()
        say(engine.summarise(runner, options.config))
        engine.leave_process_group()
