"""Draw where in an image a classifier or segmentor sees a class.

mmvitconv gradcam CONFIG CHECKPOINT IMAGE [--target CLASS] [--layer NAME] [--out PICTURE]
"""

from __future__ import annotations

import argparse

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
    from mmvitconv.analysis.grad_cam import draw_class_map, grad_cam
    from mmvitconv.analysis.pictures import check_picture_path, load_source, save_figure, title_of
    from mmvitconv.zoo.loading import load_model

    out = check_picture_path(options.out)
    config = read_config(options)
    pixels, image = load_source(None if options.image == "-" else options.image)
    checkpoint = None if options.checkpoint == "-" else options.checkpoint
    loaded = load_model(
        config, checkpoint, device=options.device, seed=options.seed, init_weights=False
    )
    found = grad_cam(loaded, pixels, options.target, options.layer)
    save_figure(draw_class_map(found, f"{title_of(loaded)}, {image}"), out)
    print(f"{found.name}: {found.score:.3f}")
    print(f"wrote {out}")
