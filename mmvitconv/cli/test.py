"""Test a checkpoint of a classifier, detector or segmentor."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmvitconv.cli import UsageError
from mmvitconv.cli.arguments import add_fold_argument, add_runtime_arguments
from mmvitconv.cli.runs import add_run_arguments, check, errors_before_loop, make_say, start
from mmvitconv.datasets.layout import check_data
from mmvitconv.engine import runner as engine
from mmvitconv.engine.tasks import (
    dump_predictions,
    enable_pictures,
    enable_test_time_augmentation,
)
from mmvitconv.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="the checkpoint to test")
    parser.add_argument("--out", metavar="FILE", help="write the predictions to a .pkl file")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every prediction")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="merge augmented copies of each image (tta_model and tta_pipeline of the config; "
        "default: the image and its mirror image)",
    )
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision (float16 on GPUs, bfloat16 on CPUs)"
    )
    add_fold_argument(parser)
    add_runtime_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Test a checkpoint and print its metrics.

    Raises:
        UsageError: ``--out`` has another suffix.
        UserError: The input cannot work.
    """
    say, out, show_dir = make_say(options), options.out, options.show_dir
    if out and not out.endswith((".pkl", ".pickle")):
        raise UsageError(f"--out writes a .pkl or .pickle file, got {out!r}")
    is_compiled = (options.runtime, options.precision) != ("eager", "fp32")
    for name in ("no_fold", "amp", "compile"):
        if is_compiled and getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with --runtime {options.runtime} "
                f"--precision {options.precision}; leave one of them out"
            )
    with errors_before_loop() as loop:
        from mmvitconv.runtime import check_runtime

        check_runtime(options.runtime, options.precision)
        cfg = start(options)
        engine.require(cfg, ("test_dataloader", "test_cfg", "test_evaluator"), "to test")
        check_data(cfg, splits=("test",))
        check(options, cfg, ("test",), loop)
        cfg.load_from = engine.check_checkpoint(options.checkpoint, "checkpoint")
        cfg.resume = False
        if options.amp:
            cfg.test_cfg["fp16"] = True
        if out:
            engine.require_writable(Path(out).parent, "--out")
        if show_dir:
            engine.require_writable(Path(show_dir), "--show-dir")
            if options.tta and cfg.get("default_scope") == "mmpretrain":
                raise UserError(
                    "--show-dir and --tta do not go together for classification: mmpretrain draws "
                    "the one image that the model saw; draw without --tta"
                )
            enable_pictures(cfg, show_dir)
        if options.tta:
            enable_test_time_augmentation(cfg)

        hooks = ["mmvitconv.Float32BoxesHook"] if options.amp else []
        chosen = {"runtime": options.runtime, "precision": options.precision}
        if not options.no_fold:
            hooks.append({"type": "mmvitconv.FoldHook", **chosen})
        if show_dir:
            hooks.append("mmvitconv.UniquePicturesHook")
        runner = engine.build(cfg, loop.begin, hooks, compile_backbone=options.compile)
        if out:
            from mmengine.registry import METRICS

            runner.test_evaluator.metrics.append(METRICS.build(dump_predictions(cfg, out)))
        loop.explain_by_annotations(cfg, ("test",))
        metrics = runner.test()
        for name, value in metrics.items():
            say(f"{name}: {value}")
        say(f"log: {runner.log_dir}")
        if show_dir:
            written = [path for path in Path(show_dir).rglob("*") if path.suffix in PICTURES]
            say(f"pictures: {len(written)} in {show_dir}")
        if out:
            say(f"predictions: {out}")
        engine.leave_process_group()
