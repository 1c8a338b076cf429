"""Draw where in an image a classifier or segmentor sees a class.

mmvitconv gradcam CONFIG CHECKPOINT IMAGE [--target CLASS] [--layer NAME] [--out PICTURE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmvitconv.cli.arguments import add_config_arguments, add_picture_arguments, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture_arguments(parser, "gradcam")
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="file with its weights; - for random ones")
    parser.add_argument("image", help="image file; - for a drawn sample image")
    parser.add_argument("--target", help="number or name of a class (default: the predicted one)")
    parser.add_argument(
        "--layer", help="module whose output is looked at (default: the backbone's last map)"
    )


def run(options: argparse.Namespace) -> None:
    """Draw the picture."""
    from mmvitconv.analysis.grad_cam import draw_class_map, grad_cam, load_model
    from mmvitconv.analysis.pictures import check_picture_path, load_source

    out = check_picture_path(options.out)
    cfg = read_config(options)
    pixels, image = load_source(None if options.image == "-" else options.image)
    checkpoint = None if options.checkpoint == "-" else options.checkpoint
    model, names = load_model(cfg, checkpoint, options.seed, options.device)
    found = grad_cam(cfg, model, pixels, options.target, options.layer, names)
    weights = (
        f"random weights, seed {options.seed}"
        if checkpoint is None
        else f"weights of {Path(checkpoint).name}"
    )
    draw_class_map(found, f"{Path(options.config).stem} ({weights}), {image}", out)
    print(f"{found.name}: {found.score:.3f}")
    print(f"wrote {out}")
