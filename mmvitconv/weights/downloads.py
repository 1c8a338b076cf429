"""The cache of checkpoints that have an address: fetched once per machine, whole or not at all.

A file of the index is cached as ``HOME/NAME/FILE``, one of any other address as
``HOME/HASH-OF-THE-ADDRESS/FILE``. Beside it a small json says where it came from and which sha256
it had. The same folder is where a file that was fetched by a browser is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmvitconv.errors import CheckpointError
from mmvitconv.resources import HOME_VARIABLE
from mmvitconv.weights.addresses import Place, drive_id, find_place
from mmvitconv.weights.hubs import SUFFIXES, choose_in_folder, download_from_drive, find_on_timm
from mmvitconv.weights.index import Source
from mmvitconv.weights.transfer import TransferError, discard, download

__all__ = ["MIRROR_VARIABLE", "cached_file", "fetch", "read_record"]

MIRROR_VARIABLE = "MMVITCONV_MIRROR"
LARGEST = 4 << 30  # bytes of a file whose size nobody says in advance


def fetch(address: str) -> Path:
    """Return the file of an address, downloaded unless this machine has it.

    Args:
        address: ``mmvitconv://NAME`` of the index, ``timm://MODEL``, ``https://``, ``http://``, or
            that of a file or folder of Google Drive.

    Returns:
        The file in the cache, or in Hugging Face's for timm's models.

    Raises:
        UserError: There is no such name.
        CheckpointError: The file cannot be had, or is not what was published.
    """
    place = find_place(address)
    found = cached_file(place)
    if found is not None:
        return found
    asked = time.time()
    with _locked(place):
        found = cached_file(place)  # another process may have fetched it meanwhile
        if found is not None:
            return found
        failed = place.folder / ".failed"
        with suppress(OSError):
            if failed.stat().st_mtime >= asked:  # and told why not
                raise CheckpointError(failed.read_text("utf-8"))
        try:
            found = _fetch_first(place)
        except CheckpointError as error:
            with suppress(OSError):
                failed.write_text(str(error), "utf-8")
            raise
        with suppress(OSError):
            failed.unlink(missing_ok=True)
        return found


def cached_file(place: Place) -> Path | None:
    """Return a place's file if this machine has it, as a download or put there by hand.

    Args:
        place: From :func:`find_place`.

    Raises:
        CheckpointError: The file is not what was published, or not what it was.
    """
    try:
        for source in place.sources:
            file = place.folder / source.file
            if file.is_file():
                _verify(file, source)
                return file
        if place.sources[0].named == "here" and place.folder.is_dir():
            others = [
                file
                for file in sorted(place.folder.iterdir())
                if file.name.endswith(SUFFIXES) and file.is_file()
            ]
            if len(others) > 1:
                raise CheckpointError(
                    f"{place.folder} holds several files for {place.title}: "
                    f"{', '.join(file.name for file in others)}; leave one there"
                )
            for file in others:
                _verify(file, place.sources[0])
                return file
    except OSError as error:
        raise CheckpointError(
            f"the cache folder {str(place.folder)!r} cannot be read ({error.strerror}); set "
            f"{HOME_VARIABLE} to another one"
        ) from error
    return None


def _verify(file: Path, source: Source) -> None:
    """Raise unless a file is what was published, and what it was when it was first seen."""
    state, record = file.stat(), read_record(file)
    seen = {"size": state.st_size, "modified": state.st_mtime_ns}
    if record is not None and seen.items() <= record.items():
        return
    digest, wrong = _examine(file, file, source)
    if wrong:
        raise CheckpointError(f"{str(file)!r} {wrong}; delete it, and it is fetched again")
    with suppress(OSError):  # a cache that may only be read
        _write_record(file, {"address": source.address, **(record or {}), **seen}, digest)


def _examine(content: Path, file: Path, source: Source) -> tuple[str, str]:
    """Return the hash of what is or shall become a cached file, and what is wrong with it."""
    digest, record = _sha256(content), read_record(file)
    wrong = _describe_content(content)
    if not wrong and not digest.startswith(source.sha256):
        wrong = (
            f"is damaged or another file: its sha256 begins with {digest[:8]}, that of the "
            f"published one with {source.sha256}"
        )
    elif not wrong and record is not None and record["sha256"] != digest:
        wrong = (
            f"has changed: its sha256 is {digest}, but was {record['sha256']} when it was first "
            f"fetched (to accept it, delete {_record_path(file)})"
        )
    return digest, wrong


def _record_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def read_record(file: Path) -> dict[str, Any] | None:
    """Return what is known about a file's first download.

    Args:
        file: From :func:`fetch`.

    Returns:
        Its ``address``, ``size``, ``modified`` and ``sha256``; None where nothing is known.
    """
    try:
        record = json.loads(_record_path(file).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("sha256"), str) else None


def _write_record(file: Path, facts: dict[str, Any], digest: str) -> None:
    """Write down what a file is, at once or not at all."""
    path = _record_path(file)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({**facts, "sha256": digest}, indent=1) + "\n", "utf-8")
    os.replace(partial, path)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    """Keep other processes out of a folder; the lock of one that has died is free."""
    from filelock import FileLock  # torch requires it

    lock = FileLock(place.folder / ".lock")
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise CheckpointError(
            f"{place.title} is not on this machine, and the cache folder {str(place.folder)!r} "
            f"cannot be written ({error.strerror or error}); set {HOME_VARIABLE} to a folder that "
            "you may write, or let somebody who may fetch it once"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch_first(place: Place) -> Path:
    """Fetch a file from the first source that gives it."""
    mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
    if mirror and not mirror.startswith(("http://", "https://")):
        raise CheckpointError(f"{MIRROR_VARIABLE} must be an http address, got {mirror!r}")
    failures: dict[str, str] = {}
    for source, path in zip(place.sources, place.mirrored, strict=True):
        address = f"{mirror}/{quote(path)}" if mirror else source.address
        try:
            return _fetch_from(address, place, source)
        except TransferError as failure:
            failures[address] = str(failure)
        except OSError as error:  # of the folder, not of the network
            with suppress(OSError):
                discard(place.folder / f"{source.file}.partial")
            raise CheckpointError(
                f"{place.title} cannot be written into {str(place.folder)!r} "
                f"({error.strerror or error}); set {HOME_VARIABLE} to another folder"
            ) from error
    reasons = "; ".join(f"{address} {reason}" for address, reason in failures.items())
    advice = f"correct {MIRROR_VARIABLE}={mirror}, or {place.advice()}" if mirror else (
        f"on a machine with network run 'mmvitconv weights get {place.title}', or {place.advice()}"
    )  # fmt: skip
    raise CheckpointError(f"{place.title} cannot be fetched: {reasons}; {advice}")


def _fetch_from(address: str, place: Place, source: Source) -> Path:
    """Fetch a file from one address."""
    file = place.folder / source.file
    partial = file.with_name(f"{file.name}.partial")
    if address.startswith("timm://"):
        found = find_on_timm(address.removeprefix("timm://"))
        if isinstance(found, Path):
            return _link(found, file, source)
        address = found
    if source.kind.startswith("drive") and address == source.address:
        identifier = drive_id(address)
        if source.kind == "drive-folder":
            identifier = choose_in_folder(identifier, source.file)
        download_from_drive(identifier, partial)
        return _publish(partial, file, source, address)
    limit = LARGEST if source.size is None else int(2e6 * source.size)
    attempts = 2
    while True:
        with _bar(place.title) as show:
            is_pieced = download(address, partial, limit, show)
        try:
            return _publish(partial, file, source, address)
        except TransferError:
            attempts -= 1
            if not (is_pieced and attempts):
                raise  # else the pieces may not belong together: once more from its beginning


def _link(found: Path, file: Path, source: Source) -> Path:
    """Make a file of Hugging Face's cache be found in ours the next time."""
    if found.suffix != file.suffix:
        return found
    file.unlink(missing_ok=True)
    file.symlink_to(found.absolute())
    _verify(file, source)
    return file


def _publish(partial: Path, file: Path, source: Source, address: str) -> Path:
    """Check a whole download, and give it its name."""
    try:
        digest, wrong = _examine(partial, file, source)
        if wrong:
            raise TransferError(f"gives a file that {wrong}")
        with partial.open("rb") as content:
            os.fsync(content.fileno())
        state = partial.stat()
        facts = {"address": address, "size": state.st_size, "modified": state.st_mtime_ns}
        _write_record(file, facts, digest)
        os.replace(partial, file)
    finally:
        discard(partial)
    return file


def _describe_content(file: Path) -> str:
    """Return why a file cannot be a checkpoint, or nothing."""
    with file.open("rb") as content:
        start = content.read(4096)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        title = re.search(rb"<title[^>]*>([^<]*)", start, re.IGNORECASE)
        shown = " ".join(title[1].decode("utf-8", "replace").split())[:80] if title else ""
        return "is a web page" + (f", {shown!r}" if shown.isprintable() and shown else "")
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git LFS, not the file itself"
    if start.startswith(b"PK"):
        return "" if zipfile.is_zipfile(file) else "is cut off: a zip archive without its end"
    length = int.from_bytes(start[:8], "little")
    is_safetensors = start[8:9] == b"{" and length <= file.stat().st_size - 8
    # \x80 begins a pickle, which older releases of PyTorch wrote
    return "" if start[0] == 0x80 or is_safetensors else "is no checkpoint"


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
