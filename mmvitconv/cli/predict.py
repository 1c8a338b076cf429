"""Write a picture for each image, and predictions.json: classes, boxes and masks, or a map."""

from __future__ import annotations

import argparse
import sys
import warnings

from mmvitconv.cli.arguments import (
    add_config_arguments,
    add_device_argument,
    add_fold_argument,
    add_memory_argument,
    add_pixels_argument,
    add_runtime_arguments,
    read_config,
)

NO_CHECKPOINT = "none"
MANY = 200  # images of which it pays to compile the model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    parser.add_argument(
        "checkpoint", help=f"its trained weights, or {NO_CHECKPOINT!r} for random ones"
    )
    parser.add_argument("image", help="an image, or a folder of images")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where to write; created when missing"
    )
    add_device_argument(parser)
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
        "--colour-by",
        choices=("instance", "class"),
        help="colour objects each for itself, or by their classes (default: by class; with a "
        "single class, each for itself)",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="look into the folders inside the folder, too"
    )
    add_fold_argument(parser)
    add_runtime_arguments(parser)
    add_memory_argument(parser)
    add_pixels_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Predict, and print where the results are."""
    from mmvitconv.apis.inference import Predictor, check_settings
    from mmvitconv.apis.output import choose_images, save_predictions

    check_settings(options.batch_size, options.score_threshold or 0.0, options.top_k)
    # before the model is built
    number = len(choose_images(options.image, options.out, options.recursive))
    cfg = read_config(options)
    checkpoint = None if options.checkpoint == NO_CHECKPOINT else options.checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about what the config says on purpose
        predictor = Predictor(
            cfg,
            checkpoint,
            options.device,
            fold=not options.no_fold,
            max_pixels=options.max_pixels,
            runtime=options.runtime,
            precision=options.precision,
        )
    if number >= MANY and options.runtime == "eager" and predictor.device.type == "cpu":
        print(f"hint: for {number} images --runtime openvino may be faster", file=sys.stderr)
    if checkpoint is None:
        print("the weights are random: the predictions mean nothing", file=sys.stderr)
    summary = save_predictions(
        predictor,
        options.image,
        options.out,
        batch_size=options.batch_size,
        score_threshold=options.score_threshold,
        top_k=options.top_k,
        recursive=options.recursive,
        colour_by=options.colour_by,
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
