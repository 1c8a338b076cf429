"""Measure how much attention depends on the query and on the head, and how sparse it is.

mmvitconv attention-stats MODEL [--checkpoint FILE] [--images FOLDER] [--out PICTURE]

The numbers of all layers are written to a CSV file beside the picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmvitconv.cli.arguments import (
    add_image_arguments,
    add_picture_arguments,
    loading_options,
    positive,
)
from mmvitconv.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture_arguments(parser, "attention-stats")
    add_image_arguments(parser)
    parser.add_argument("--images", help="folder of images, instead of one")
    parser.add_argument(
        "--count", type=positive, default=10, help="how many of them (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Draw the pictures and write the numbers."""
    if options.images and options.image:
        raise UserError("--image and --images were given; give one of them")

    from mmvitconv.analysis.attention_statistics import (
        attention_statistics,
        draw_statistics,
        write_statistics,
    )
    from mmvitconv.analysis.pictures import (
        check_picture_path,
        fit,
        load_network,
        load_source,
        read_image,
        save_figure,
        title_of,
        to_input,
    )
    from mmvitconv.apis.images import find_images
    from mmvitconv.datasets.progress import progress

    out = check_picture_path(options.out)
    if options.images:
        paths = find_images(options.images, recursive=True)[: options.count]
        pictures = [read_image(path) for path in paths]
        name = f"{len(pictures)} images of {Path(options.images).name}"
    else:
        first, name = load_source(options.image)
        pictures = [first]
    loaded = load_network(options.model, **loading_options(options))
    sources = [fit(picture, loaded.shape) for picture in pictures]
    inputs = (to_input(loaded, source) for source in sources)
    rows = attention_statistics(loaded.module, progress(inputs, f"attention of {loaded.name}"))
    save_figure(draw_statistics(rows, sources[0], f"{title_of(loaded)}, {name}"), out)
    table = write_statistics(rows, out)

    shown = Table("layer", "kind", "queries", "heads", "entropy", "keys for 90 %",
                  title="queries and heads: mean cosine of two")  # fmt: skip
    for row in rows:
        numbers = (row.query_similarity, row.head_similarity, row.entropy, row.keys_for_mass)
        shown.add_row(row.layer, row.kind, *(f"{number:.3f}" for number in numbers))
    Console().print(shown)
    for path in (out, table):
        print(f"wrote {path}")
