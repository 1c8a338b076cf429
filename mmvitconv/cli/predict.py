"""``mmvitconv predict``: pictures and JSON for an image or a folder of images."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from mmvitconv.engine.configuration import add_config_arguments, apply_options, load_config

NO_CHECKPOINT = "none"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="mmvitconv predict",
        description="Write a picture for each image, and predictions.json: classes, boxes and "
        "masks, or the class of each pixel.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "checkpoint", help=f"its trained weights, or {NO_CHECKPOINT!r} for random ones"
    )
    parser.add_argument("image", help="an image, or a folder of images")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where to write; created when missing"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="images at once (default: %(default)s)"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="leave out objects or classes with a lower score, 0 to 1 (default: 0.3 for "
        "detection, 0 for classification; segmentation has no scores)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=5,
        help="how many classes a classifier names (default: %(default)s)",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="look into the folders inside the folder, too"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, and print where the results are.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code.
    """
    args = build_parser().parse_args(arguments)
    from mmvitconv.apis.inference import Predictor, check_settings
    from mmvitconv.apis.output import choose_images, save_predictions

    check_settings(args.batch_size, args.score_threshold or 0.0, args.top_k)
    choose_images(args.image, args.out, args.recursive)  # before the model is built
    cfg = load_config(args.config)
    for note in apply_options(cfg, args.cfg_options):
        print(note, file=sys.stderr)
    checkpoint = None if args.checkpoint == NO_CHECKPOINT else args.checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about what the config says on purpose
        predictor = Predictor(cfg, checkpoint, args.device)
    if checkpoint is None:
        print("the weights are random: the predictions mean nothing", file=sys.stderr)
    summary = save_predictions(
        predictor,
        args.image,
        args.out,
        batch_size=args.batch_size,
        score_threshold=args.score_threshold,
        top_k=args.top_k,
        recursive=args.recursive,
    )
    for error in summary.errors:
        print(f"left out: {error['image']}: {error['error']}", file=sys.stderr)
    left_out = f", {len(summary.errors)} left out" if summary.errors else ""
    plural = "" if summary.images == 1 else "s"
    print(
        f"{summary.images} image{plural}{left_out}, {summary.seconds:.1f} s, "
        f"{summary.images / summary.seconds:.1f} images/s with pictures on {predictor.device}: "
        f"{summary.file}"
    )
    return 0
