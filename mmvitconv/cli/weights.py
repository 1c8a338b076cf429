"""Published weights by name: which there are, fetch them, find them.

mmvitconv weights list
mmvitconv weights get NAME [NAME ...]
mmvitconv weights where NAME
mmvitconv weights verify NAME --data data/imagenet
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from mmvitconv.cli import UsageError
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.weights.addresses import address_of, find_place
from mmvitconv.weights.downloads import cached_file, fetch, read_record
from mmvitconv.weights.index import Weights, find_weights, read_index

RULE = (
    "A name stands for 'mmvitconv://NAME' wherever a checkpoint is named. Published: by the "
    "authors, in %, not reproduced here. Nothing of this is shipped; the licence is the authors'."
)
NARROWEST = 110  # columns, where the output goes to a file or a pipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list | get | where | verify"
    )
    actions.add_parser("list", help="all names, with licence and published figures")
    get = actions.add_parser("get", help="fetch into the cache, unless it is there")
    get.add_argument("names", nargs="+", metavar="NAME", help="a name of the list, or an address")
    where = actions.add_parser("where", help="print the file's path on this machine")
    where.add_argument("name", metavar="NAME", help="a name of the list, or an address")
    verify = actions.add_parser("verify", help="evaluate on your copy of the data set")
    verify.add_argument("names", nargs="*", metavar="NAME", help="a name of the list")
    verify.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DIR",
        help="folder of ImageNet, COCO, ADE20K or VOC 2012, once for each (default: where the "
        "configs look for them, data/imagenet and so on)",
    )
    verify.add_argument(
        "--all", action="store_true", help="all names whose data are there, as a table"
    )


def run(options: argparse.Namespace) -> None:
    """Do one of the actions."""
    if options.action == "list":
        print_list()
    elif options.action == "where":
        print(locate(options.name))
    elif options.action == "verify":
        verify(options)
    else:
        for name in options.names:
            get(name)


def print_list() -> None:
    """Print all published weights."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(NARROWEST, console.width))
    table = Table(title=f"{len(read_index())} published weights")
    for column in ("name", "architecture", "published"):
        table.add_column(column, no_wrap=True)
    table.add_column("licence", overflow="fold")
    table.add_column("here", no_wrap=True)
    family = None
    for entry in read_index().values():
        if entry.architecture.partition(":")[0] != family:
            table.add_section()
        family = entry.architecture.partition(":")[0]
        figures = f"{entry.dataset}: {entry.figures()}"
        licence = entry.licence if entry.loads else f"{entry.licence}; a link only"
        table.add_row(entry.name, entry.architecture, figures, licence, _state(entry))
    console.print(table)
    console.print(RULE, highlight=False)


def _state(entry: Weights) -> str:
    try:
        return "-" if cached_file(find_place(entry.uri)) is None else "yes"
    except CheckpointError:
        return "damaged"


def get(name: str) -> None:
    """Fetch a file and print what it is.

    Args:
        name: A name of the index, or an address.

    Raises:
        UserError: The file cannot be had.
    """
    address = _address(name)
    file = fetch(address)
    record = read_record(file) or {}
    print(f"{address}\n  file     {file}")
    print(f"  size     {file.stat().st_size / 1e6:.1f} MB")
    if "sha256" in record:
        print(f"  sha256   {record['sha256']}")
    if address.startswith("mmvitconv://"):
        entry = find_weights(address.removeprefix("mmvitconv://"))
        print(f"  licence  {entry.licence}")
        print(f"  {entry.dataset}: {entry.figures()} ({entry.published_in}; not reproduced here)")
        if not entry.loads:
            print("  a link only: how this file names its weights is not known here")


def locate(name: str) -> str:
    """Return the path of a file that is on this machine.

    Args:
        name: A name of the index, or an address.

    Raises:
        UserError: It is not; the message says how it gets there.
    """
    place = find_place(_address(name))
    found = cached_file(place)
    if found is None:
        raise UserError(
            f"{place.title} is not on this machine; run 'mmvitconv weights get {place.title}', or "
            f"{place.advice()}"
        )
    return str(found)


def verify(options: argparse.Namespace) -> None:
    """Evaluate published weights and print published figure, measured one and difference.

    Args:
        options: With ``names``, ``data`` and ``all``.

    Raises:
        UsageError: Neither names nor ``--all``, or both.
        UserError: Weights, config or data are not there.
    """
    if bool(options.names) == options.all:
        raise UsageError("give the names of published weights, or --all")
    entries = [find_weights(name.removeprefix("mmvitconv://")) for name in options.names]
    from mmvitconv.zoo import verification  # imports torch

    if options.all:
        entries = [
            entry for entry in read_index().values() if verification.has_data(entry, options.data)
        ]
        if not entries:
            raise UserError(
                f"none of the data sets is in {' or '.join(options.data) or 'data/'}; give the "
                "folder of ImageNet, COCO, ADE20K or VOC 2012 as --data DIR"
            )
    figures = []
    for entry in entries:
        for figure in verification.verify(entry, options.data):
            print(figure, flush=True)
            figures.append(figure)
    if options.all:
        print(f"\n{verification.to_markdown(figures)}")


def _address(name: str) -> str:
    return address_of(name) or find_weights(name).uri
