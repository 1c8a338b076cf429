"""Print a config with its bases and options merged."""

from __future__ import annotations

import argparse

from mmvitconv.cli.arguments import add_config_arguments, add_debug_argument, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)
    add_debug_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Print the config as a config file."""
    print(read_config(options, lambda note: print(f"# {note}")).pretty_text)
