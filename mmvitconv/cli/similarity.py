"""Draw FCViT's token-global similarity over an image.

mmvitconv similarity MODEL [--checkpoint FILE] [--image FILE] [--stage S] [--block B] [--heads]
"""

from __future__ import annotations

import argparse

from mmvitconv.cli.arguments import add_image_arguments, add_picture_arguments, loading_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture_arguments(parser, "similarity")
    add_image_arguments(parser)
    parser.add_argument("--stage", type=int, help="one stage, from 0 on (default: all)")
    parser.add_argument("--block", type=int, help="one block of each stage (default: all)")
    parser.add_argument("--heads", action="store_true", help="each head by itself, not their mean")


def run(options: argparse.Namespace) -> None:
    """Draw the picture."""
    from mmvitconv.analysis.pictures import check_picture_path, open_scene, save_figure
    from mmvitconv.analysis.similarity import (
        capture_similarity,
        draw_similarity,
        select_similarity,
    )

    out = check_picture_path(options.out)
    scene = open_scene(options.model, options.image, **loading_options(options))
    maps = capture_similarity(scene.loaded.module, scene.input)
    block = -1 if options.heads and options.block is None else options.block
    chosen = select_similarity(maps, options.stage, block)
    figure = draw_similarity(chosen, scene.source, scene.note, options.heads)
    print(f"wrote {save_figure(figure, out)}")
