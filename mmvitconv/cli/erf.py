"""Draw effective receptive fields: which pixels the centre of a model's output depends on.

mmvitconv erf MODEL [MODEL ...] [--checkpoint FILE ...] [--images FOLDER] [--out PICTURE]

Beside the picture a CSV and a JSON file tell how large a centred square has to be to hold 20, 30,
50 and 99 % of all contributions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmvitconv.cli.arguments import MODEL_HELP, add_picture_arguments, positive
from mmvitconv.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture_arguments(parser, "erf")
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL_HELP)
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        help="weights of the models, in their order; - for random ones (default: all random)",
    )
    parser.add_argument("--images", help="folder of images (default: standard normal noise)")
    parser.add_argument(
        "--count", type=positive, default=10, help="how many images (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=positive, default=224, help="side of the images (default: %(default)s)"
    )
    parser.add_argument(
        "--stage", type=int, default=-1, help="which of the outputs (default: the last)"
    )
    parser.add_argument(
        "--keep-layer-scale",
        action="store_true",
        help="leave the layer scales of random weights as they start, so that blocks add next to "
        "nothing; otherwise they are set to 1",
    )


def run(options: argparse.Namespace) -> None:
    """Draw the picture and write its numbers."""
    checkpoints = options.checkpoint or ["-"] * len(options.models)
    if len(checkpoints) != len(options.models):
        raise UserError(
            f"--checkpoint has {len(checkpoints)} files for {len(options.models)} models; give one "
            "for each, - for random weights"
        )

    from mmvitconv.analysis.pictures import check_picture_path, load_network, save_figure, to_input
    from mmvitconv.analysis.receptive_field import (
        draw_receptive_fields,
        even_layer_scales,
        folder_images,
        measure_reach,
        network_receptive_field,
        noise_images,
        noise_view,
        write_reach,
    )

    out = check_picture_path(options.out)
    size = options.size
    pictures = folder_images(options.images, size, options.count) if options.images else None
    networks = [
        load_network(
            name,
            None if file == "-" else file,
            seed=options.seed,
            shape=(size, size),
            device=options.device,
        )
        for name, file in zip(options.models, checkpoints, strict=True)
    ]
    fields, reaches = {}, {}
    for loaded, file in zip(networks, checkpoints, strict=True):
        weights = loaded.weights
        if file == "-" and not options.keep_layer_scale and even_layer_scales(loaded.module):
            weights += ", layer scales 1"
        if pictures is None:
            images = noise_images(loaded, size, options.count, options.seed)
        else:
            images = [to_input(loaded, picture) for picture in pictures]
        title = f"{loaded.name}\n{weights}"
        if title in fields:
            raise UserError(f"{loaded.name} was given twice with the same weights")
        fields[title] = network_receptive_field(loaded, images, options.stage)
        reaches[loaded.name if loaded.name not in reaches else title] = measure_reach(fields[title])
    count = options.count if pictures is None else len(pictures)
    source = f"{count} images of {Path(options.images).name}" if pictures else f"{count} x noise"
    stage = "last output" if options.stage == -1 else f"output {options.stage}"
    note = f"{stage}, {source}, {size} x {size}"
    first = noise_view(images[0]) if pictures is None else pictures[0]
    save_figure(draw_receptive_fields(fields, first, note), out)
    settings = {
        "models": list(fields),
        "images": source,
        "size": size,
        "stage": options.stage,
        "seed": options.seed,
    }
    table, full = write_reach(out, reaches, settings)

    shares = [f"{reach.threshold:.0%}" for reach in next(iter(reaches.values()))]
    shown = Table("model", *shares, title="side of the centred square that holds this share")
    for name, found in reaches.items():
        sides = [f"{reach.side} ({reach.side_ratio:.1%})" for reach in found]
        shown.add_row(name.replace("\n", ", "), *sides)
    Console().print(shown)
    for path in (out, table, full):
        print(f"wrote {path}")
