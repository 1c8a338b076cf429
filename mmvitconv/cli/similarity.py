"""Draw FCViT's token-global similarity over an image.

mmvitconv similarity MODEL [--checkpoint FILE] [--image FILE] [--stage S] [--block B] [--heads]
"""

from __future__ import annotations

import argparse

from mmvitconv.cli.arguments import add_image_arguments, add_picture_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture_arguments(parser, "similarity")
    add_image_arguments(parser)
    parser.add_argument("--stage", type=int, help="one stage, from 0 on (default: all)")
    parser.add_argument("--block", type=int, help="one block of each stage (default: all)")
    parser.add_argument("--heads", action="store_true", help="each head by itself, not their mean")


def run(options: argparse.Namespace) -> None:
    """Draw the picture."""
    from mmvitconv.analysis.pictures import check_picture_path, fit, load_source
    from mmvitconv.analysis.similarity import (
        capture_similarity,
        draw_similarity,
        select_similarity,
    )
    from mmvitconv.analysis.subjects import load_subject

    out = check_picture_path(options.out)
    pixels, image = load_source(options.image)
    subject = load_subject(
        options.model, options.checkpoint, options.seed, options.size, options.device
    )
    source = fit(pixels, subject.shape)
    maps = capture_similarity(subject.model, subject.to_input(source))
    block = -1 if options.heads and options.block is None else options.block
    chosen = select_similarity(maps, options.stage, block)
    draw_similarity(chosen, source, f"{subject.title}, {image}", out, options.heads)
    print(f"wrote {out}")
