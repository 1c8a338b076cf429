"""Open a web page on this machine: drop an image, compare one or two models."""

from __future__ import annotations

import argparse
import contextlib
import warnings

from mmvitconv.cli import UsageError
from mmvitconv.cli.arguments import (
    add_device_argument,
    add_memory_argument,
    add_pixels_argument,
    add_runtime_arguments,
)
from mmvitconv.cli.predict import NO_CHECKPOINT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "%(prog)s [options] CONFIG CHECKPOINT [CONFIG2 CHECKPOINT2]"
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CONFIG CHECKPOINT",
        help=f"one or two pairs of a config and its trained weights ({NO_CHECKPOINT!r}: random)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; the default, %(default)s, is reached from this machine only",
    )
    parser.add_argument(
        "--port", type=int, help="port to listen on (default: the first free one from 7860)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name by which browsers may ask for the page, as behind a proxy; may be "
        "repeated (default: the names of this machine only)",
    )
    add_device_argument(parser)
    add_pixels_argument(parser)
    add_runtime_arguments(parser)
    add_memory_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if len(options.models) not in (2, 4):
        raise UsageError(
            "give CONFIG CHECKPOINT, or two such pairs: CONFIG CHECKPOINT CONFIG2 CHECKPOINT2; "
            f"got {len(options.models)} names"
        )
    from mmvitconv.apis.inference import Predictor
    from mmvitconv.apis.page import serve

    pairs = zip(options.models[::2], options.models[1::2], strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about what the config says on purpose
        predictors = [
            Predictor(
                config,
                None if checkpoint == NO_CHECKPOINT else checkpoint,
                options.device,
                max_pixels=options.max_pixels,
                runtime=options.runtime,
                precision=options.precision,
            )
            for config, checkpoint in pairs
        ]
    page = serve(predictors, options.host, options.port, options.allow_host)
    with contextlib.suppress(KeyboardInterrupt):  # also before `block_thread` looks out for it
        print(f"ready: {page.local_url} (Ctrl-C ends it)", flush=True)
        page.block_thread()
