"""``mmvitconv serve``: a local web page that shows what one or two checkpoints say."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

from mmvitconv.cli.predict import NO_CHECKPOINT


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="mmvitconv serve",
        usage="%(prog)s [options] CONFIG CHECKPOINT [CONFIG2 CHECKPOINT2]",
        description="Open a web page on this machine: drop an image, compare one or two models.",
    )
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
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code.
    """
    parser = build_parser()
    args = parser.parse_args(arguments)
    if len(args.models) not in (2, 4):
        parser.error(
            "give CONFIG CHECKPOINT, or two such pairs: CONFIG CHECKPOINT CONFIG2 CHECKPOINT2; "
            f"got {len(args.models)} names"
        )
    from mmvitconv.apis.inference import Predictor
    from mmvitconv.apis.page import serve

    pairs = zip(args.models[::2], args.models[1::2], strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about what the config says on purpose
        predictors = [
            Predictor(config, None if checkpoint == NO_CHECKPOINT else checkpoint, args.device)
            for config, checkpoint in pairs
        ]
    page = serve(predictors, args.host, args.port)
    print(f"ready: {page.local_url} (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0
