"""Draw attention over an image: LightViT's global tokens, or what one position reads.

mmvitconv attention MODEL [--checkpoint FILE] [--image FILE] [--read] [--layer NAME] [--head H]
mmvitconv attention MODEL --query Y X ...

The second form is for models in which every position reads all others: DynConvViT and DynConvSwin
with a global mixer, and timm's plain Transformers.
"""

from __future__ import annotations

import argparse

from mmvitconv.cli.arguments import add_image_arguments, add_picture_arguments, loading_options
from mmvitconv.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture_arguments(parser, "attention")
    add_image_arguments(parser)
    parser.add_argument(
        "--layer", help="one layer by its name (default: the last of each stage; with --query all)"
    )
    parser.add_argument("--head", type=int, help="one head (default: the mean of all)")
    parser.add_argument(
        "--read", action="store_true", help="who reads the global tokens, not where they gather"
    )
    parser.add_argument(
        "--query",
        type=int,
        nargs=2,
        metavar=("Y", "X"),
        help="pixel of the image as it is drawn whose attention is shown (default, where there are "
        "no global tokens: its centre)",
    )


def run(options: argparse.Namespace) -> None:
    """Draw the picture."""
    from mmvitconv.analysis.attention import (
        capture_attention,
        choose_layers,
        draw_queries,
        draw_tokens,
    )
    from mmvitconv.analysis.pictures import check_picture_path, open_scene, save_figure

    out = check_picture_path(options.out)
    scene = open_scene(options.model, options.image, **loading_options(options))
    height, width = scene.source.shape[:2]
    query = options.query
    if query is not None and not (0 <= query[0] < height and 0 <= query[1] < width):
        raise UserError(
            f"--query {query[0]} {query[1]} is outside of the image of {height} x {width}; give "
            f"Y from 0 to {height - 1} and X from 0 to {width - 1}"
        )
    found = capture_attention(scene.loaded.module, scene.input)
    tokens = [one for one in found if one.kind == ("read" if options.read else "gather")]
    if tokens and query is None:
        chosen = choose_layers(tokens, options.layer)
        figure = draw_tokens(chosen, scene.source, scene.note, options.head)
        print(f"wrote {save_figure(figure, out)}")
        return
    whole = [one for one in found if one.kind == "global" and one.grid is not None]
    if not whole or options.read:
        raise UserError(
            f"{scene.loaded.name} has no attention of {'global tokens' if options.read else 'all'} "
            "positions to the whole map; "
            + ("leave --query out" if tokens else "give a LightViT for global tokens, or a "
               "DynConvViT or 'timm:deit_tiny_patch16_224' for --query")
        )  # fmt: skip
    y, x = query or (height // 2, width // 2)
    chosen = choose_layers(whole, options.layer) if options.layer else whole
    position = ((y + 0.5) / height, (x + 0.5) / width)
    figure = draw_queries(chosen, position, scene.source, scene.note, options.head)
    print(f"wrote {save_figure(figure, out)}")
