"""Checkpoints by address: fetched once per machine into a cache, whole or not at all.

A file of the index is cached as ``HOME/NAME/FILE``, one of any other address as
``HOME/HASH-OF-THE-ADDRESS/FILE``. Beside it a small json says where it came from and which sha256
it had. The same folder is where a file that was fetched by a browser is found.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mmvitconv.errors import CheckpointError
from mmvitconv.version import __version__
from mmvitconv.weights.index import Source, find_weights, read_index

__all__ = [
    "SCHEMES",
    "Place",
    "address_of",
    "cache_home",
    "cached_file",
    "fetch",
    "find_place",
    "read_record",
    "title_of",
]

SCHEMES = ("mmvitconv", "timm", "https", "http")
HOME_VARIABLE = "MMVITCONV_HOME"
MIRROR_VARIABLE = "MMVITCONV_MIRROR"
SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
GOOGLE = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")

TIMEOUT = 10.0  # seconds in which a server has to say something
WINDOW = 30.0  # seconds in which it has to send LEAST bytes
LEAST = 30_000
ATTEMPTS = 5  # in a row that bring less than PROGRESS bytes
PROGRESS = 1 << 20
PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
LARGEST = 8 << 30  # bytes of a file whose size nobody says in advance
CHUNK = 1 << 16
# What only the local disk says, never the network.
LOCAL_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG,
     errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
)  # fmt: skip


class _FailureError(Exception):
    """Why one source does not give the file."""


@dataclass(frozen=True)
class Place:
    """Where a file is cached, and where it can be had.

    Attributes:
        title: What messages call it: an index name or an address.
        folder: Its folder in the cache.
        sources: Where it is, in the order in which places are tried.
        mirrored: What a mirror calls each of the sources, below its own address.
    """

    title: str
    folder: Path
    sources: tuple[Source, ...]
    mirrored: tuple[str, ...]

    def advice(self) -> str:
        """Return how a user gets the file by hand."""
        first = self.sources[0]
        name = "the file" if first.named == "here" else first.file
        page = first.address.replace("timm://", "https://huggingface.co/timm/")
        return f"fetch {page} with a browser and put {name} into {self.folder}"


def address_of(checkpoint: str | os.PathLike) -> str:
    """Return the address that a checkpoint is named by.

    Args:
        checkpoint: A path or an address, also one that :class:`pathlib.Path` has taken a slash
            from.

    Returns:
        The address, ``'mmvitconv://fcvit_s12'``; empty for a path.
    """
    text = os.fsdecode(checkpoint)
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(?=[^/])", text)
    if found is None or not (found[2] or found[1].lower() in SCHEMES):
        return ""
    return f"{found[1].lower()}://{text[found.end() :]}"


def title_of(checkpoint: str | os.PathLike) -> str:
    """Return what titles call a checkpoint: its file's name, or its name in an index.

    Args:
        checkpoint: A path or an address.

    Examples:
        >>> title_of("runs/best.pth"), title_of("mmvitconv://fcvit_s12")
        ('best.pth', 'mmvitconv://fcvit_s12')
    """
    address = address_of(checkpoint)
    if not address:
        return Path(checkpoint).name
    name = Path(unquote(urlsplit(address).path)).name
    return name if address.startswith("http") and name else address


def cache_home() -> Path:
    """Return the folder of the cache: MMVITCONV_HOME, else XDG_CACHE_HOME/mmvitconv or ~/.cache."""
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(os.path.expanduser(given)).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base), "mmvitconv").absolute()


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


def find_place(address: str) -> Place:
    """Return where the file of an address is, in the cache and elsewhere.

    Args:
        address: As for :func:`fetch`.

    Raises:
        UserError: There is no such name.
        CheckpointError: The address is of another kind.
    """
    scheme, _, rest = address.partition("://")
    home = cache_home()
    if scheme == "mmvitconv":
        entry = find_weights(rest)
        paths = tuple(f"{entry.name}/{source.file}" for source in entry.sources)
        return Place(entry.name, home / entry.name, entry.sources, paths)
    for entry in read_index().values():
        for source in entry.sources:
            if _drive_id(source.address) == _drive_id(address) != "" or source.address == address:
                path = f"{entry.name}/{source.file}"
                return Place(address, home / entry.name, (source,), (path,))
    source, path = _foreign_source(scheme, rest, address)
    folder = home / hashlib.sha256(address.encode("utf-8", "replace")).hexdigest()[:16]
    return Place(address, folder, (source,), (path,))


def _foreign_source(scheme: str, rest: str, address: str) -> tuple[Source, str]:
    """Return the source of an address that is not in the index, and a mirror's name for it."""
    drive = _drive_id(address)
    if drive:
        kind = "drive-folder" if "/folders/" in address else "drive-file"
        return Source(kind, address, f"{drive}.pth", named="here"), f"drive.google.com/{drive}"
    if scheme == "timm" and rest:
        return Source("timm", address, TIMM_FILES[0]), f"timm/{rest}/{TIMM_FILES[0]}"
    host, path = _split(address)
    if scheme not in ("http", "https") or not host:
        raise CheckpointError(
            f"{address!r} is no address that checkpoints are read from; give the path of a file, "
            "mmvitconv://NAME ('mmvitconv weights list' shows the names), timm://MODEL or https://"
        )
    name = re.sub(r"[^\w.+-]", "_", Path(unquote(path)).name)[-120:].lstrip(".")
    return Source("direct", address, name or "checkpoint"), f"{host}{unquote(path)}"


def _split(address: str) -> tuple[str, str]:
    """Return host and path of an address; an empty host where it has none."""
    try:
        parts = urlsplit(address)
        return parts.netloc.rpartition("@")[2], parts.path
    except ValueError:  # brackets that do not close
        return "", ""


def _drive_id(address: str) -> str:
    """Return Google's id of a file or folder; empty for other addresses."""
    host, path = _split(address)
    if host not in GOOGLE:
        return ""
    found = re.search(r"/(?:d|folders)/([\w-]+)", path)
    return found[1] if found else parse_qs(urlsplit(address).query).get("id", [""])[0]


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
    digest = _sha256(file)
    wrong = _hash_mismatch(digest, source, record)
    if wrong:
        raise CheckpointError(f"{str(file)!r} {wrong}; delete it, and it is fetched again")
    with suppress(OSError):  # a cache that may only be read
        _write_record(file, {"address": source.address, **(record or {}), **seen}, digest)


def _hash_mismatch(digest: str, source: Source, record: dict[str, Any] | None) -> str:
    """Return how a file's hash differs from what is known, or nothing."""
    if not digest.startswith(source.sha256):
        return (
            f"is damaged or another file: its sha256 begins with {digest[:8]}, that of the "
            f"published one with {source.sha256}"
        )
    if record is not None and record["sha256"] != digest:
        return (
            f"has changed: its sha256 is {digest}, but was {record['sha256']} when it was first "
            "fetched"
        )
    return ""


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
            if mirror or source.kind == "direct":
                return _fetch_direct(address, place, source)
            return _FETCHERS[source.kind](place, source)
        except _FailureError as failure:
            failures[address] = str(failure)
        except OSError as error:  # of the folder, not of the network
            with suppress(OSError):
                _discard(place.folder / f"{source.file}.partial")
            raise CheckpointError(
                f"{place.title} cannot be written into {str(place.folder)!r} "
                f"({error.strerror or error}); set {HOME_VARIABLE} to another folder"
            ) from error
    reasons = "; ".join(f"{address} {reason}" for address, reason in failures.items())
    advice = f"correct {MIRROR_VARIABLE}={mirror}, or {place.advice()}" if mirror else (
        f"on a machine with network run 'mmvitconv weights get {place.title}', or {place.advice()}"
    )  # fmt: skip
    raise CheckpointError(f"{place.title} cannot be fetched: {reasons}; {advice}")


def _fetch_direct(address: str, place: Place, source: Source) -> Path:
    """Fetch a file by http; a part that an earlier attempt has left is continued."""
    partial = place.folder / f"{source.file}.partial"
    limit = LARGEST if source.size is None else int(2e6 * source.size) + PROGRESS
    resumed = partial.is_file()
    while True:
        with _bar(place.title) as show:
            _download(address, partial, limit, show)
        try:
            return _publish(partial, place.folder / source.file, source, address)
        except _FailureError:
            if not resumed:
                raise
            resumed = False  # once more from its beginning


def _publish(partial: Path, file: Path, source: Source, address: str) -> Path:
    """Check a whole download, and give it its name."""
    try:
        wrong = _describe_content(partial)
        digest, record = _sha256(partial), read_record(file)
        wrong = wrong or _hash_mismatch(digest, source, record)
        if wrong:
            known = record is not None and record["sha256"] != digest
            accept = f" (to accept it, delete {_record_path(file)})" if known else ""
            raise _FailureError(f"gives a file that {wrong}{accept}")
        with partial.open("rb") as content:
            os.fsync(content.fileno())
        state = partial.stat()
        facts = {"address": address, "size": state.st_size, "modified": state.st_mtime_ns}
        _write_record(file, facts, digest)
        os.replace(partial, file)
    finally:
        _discard(partial)
    return file


def _discard(partial: Path) -> None:
    """Remove an unfinished file and what is known about it."""
    for path in (partial, _record_path(partial)):
        path.unlink(missing_ok=True)


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


def _download(
    address: str, partial: Path, limit: int, show: Callable[[int, int | None], None]
) -> None:
    """Download a file in as many attempts as bring it on."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            _stream(address, partial, limit, show)
            return
        except HTTPError as error:
            reason, rounds = f"is refused with {error.code} ({_text(error.reason)})", ATTEMPTS
            if error.code == 416:  # what is here is no part of what is there
                _discard(partial)
            elif error.code not in (408, 425, 429) and error.code < 500:
                raise _FailureError(reason) from error
        except URLError as error:  # no connection: a machine without network
            reason = f"cannot be reached ({_text(error.reason)})"
            rounds = 1 if isinstance(error.reason, TimeoutError) else 2
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in LOCAL_ERRORS:
                raise
            reason, rounds = f"stops answering ({_text(error)})", ATTEMPTS
        except ValueError as error:
            raise _FailureError(f"is no address ({_text(error)})") from error
        failures = 1 if _size(partial) - before >= PROGRESS else failures + 1
        if failures >= rounds:
            raise _FailureError(reason)
        time.sleep(PAUSE * 2 ** (failures - 1))


def _stream(
    address: str, partial: Path, limit: int, show: Callable[[int, int | None], None]
) -> None:
    """Download a file in one attempt, from where an earlier one has stopped."""
    record = _record_path(partial)
    headers = {"User-Agent": f"mmvitconv/{__version__}", "Accept-Encoding": "identity"}
    done = _size(partial)
    version, length = _read_version(record, address) if done else ("", None)
    if version:
        headers |= {"Range": f"bytes={done}-", "If-Range": version}
    with _open(Request(address, headers=headers)) as reply:
        if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _FailureError("is sent compressed, though that was not asked for")
        is_part = reply.status == 206 and bool(version)
        if not is_part:
            done = 0  # the server sends the whole file
        left = reply.headers.get("Content-Length", "")
        total = done + int(left) if left.isdecimal() else None
        if is_part and (
            total != length
            or not reply.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        ):
            _discard(partial)
            raise ConnectionError("another part than the one that was asked for")
        _check_room(partial, total, done, limit)
        facts = {"address": address, "version": _version(reply), "length": total}
        record.write_text(json.dumps(facts), "utf-8")
        try:
            with partial.open("ab" if done else "wb") as file:
                received = _copy(reply, file, done, total, limit, show)
        except _FailureError:
            _discard(partial)
            raise
    if total is not None and received != total:
        raise ConnectionError(f"the connection ended after {received} of {total} bytes")


def _open(request: Request) -> HTTPResponse:
    """Send a request; an answer that comes byte by byte, each in time, is none."""
    outcome: list[HTTPResponse | Exception] = []

    def work() -> None:
        try:
            outcome.append(build_opener(_Redirects).open(request, timeout=TIMEOUT))
        except Exception as error:
            outcome.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT)
    if not outcome:
        raise URLError(TimeoutError())
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _copy(
    reply: HTTPResponse,
    file: IO[bytes],
    done: int,
    total: int | None,
    limit: int,
    show: Callable[[int, int | None], None],
) -> int:
    """Copy an answer into a file; returns how many bytes that has now."""
    began, mark = time.monotonic(), done
    while chunk := reply.read1(CHUNK):
        file.write(chunk)
        done += len(chunk)
        show(done, total)
        if done > limit:
            raise _FailureError(f"sends more than {limit / 1e6:.0f} MB, which it should not have")
        now = time.monotonic()
        if now - began > WINDOW:
            if done - mark < LEAST:
                raise TimeoutError(f"{done - mark} bytes in {WINDOW:.0f} s")
            began, mark = now, done
    return done


def _check_room(partial: Path, total: int | None, done: int, limit: int) -> None:
    """Raise when a file is larger than it should be, or than the disk has room for."""
    if total is None:
        return
    if total > limit:
        raise _FailureError(f"has {total / 1e6:.0f} MB, more than the {limit / 1e6:.0f} expected")
    free = shutil.disk_usage(partial.parent).free
    if total - done > free:
        raise _FailureError(
            f"has {total / 1e6:.0f} MB, but the disk of {partial.parent} has {free / 1e6:.0f} left"
        )


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to http and https only, and none from https to http."""

    def redirect_request(self, req: Request, *args: Any) -> Request | None:
        """Return the next request, or raise."""
        target = args[-1]
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(target).scheme not in allowed:
            raise _FailureError(f"redirects to {target}, which is not followed")
        return super().redirect_request(req, *args)


def _version(reply: HTTPResponse) -> str:
    """Return what says that two answers are parts of the same file; empty if nothing does."""
    tag = reply.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else reply.headers.get("Last-Modified", "")


def _read_version(record: Path, address: str) -> tuple[str, int | None]:
    """Return version and length of the file that an unfinished one is the beginning of."""
    try:
        facts = json.loads(record.read_text("utf-8"))
        return (facts["version"], facts["length"]) if facts["address"] == address else ("", None)
    except (OSError, ValueError, TypeError, KeyError):
        return "", None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _text(error: object) -> str:
    """Return an error on one line."""
    if isinstance(error, TimeoutError) and (not error.args or "timed out" in str(error)):
        return f"nothing within {TIMEOUT:.0f} s"
    told = error.strerror if isinstance(error, OSError) and error.strerror else error
    shown = "".join(sign if sign.isprintable() else " " for sign in str(told))
    return " ".join(shown.split())[:200] or type(error).__name__


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


def _fetch_drive_file(place: Place, source: Source) -> Path:
    """Fetch a file of Google Drive by gdown, which knows the questions that Drive asks."""
    return _gdown(place, source, _drive_id(source.address))


def _fetch_drive_folder(place: Place, source: Source) -> Path:
    """Fetch the checkpoint of a folder of Google Drive: of the known name, or the only one."""
    with _drive_errors() as gdown:
        files = gdown.download_folder(
            id=_drive_id(source.address), skip_download=True, quiet=True, timeout=TIMEOUT
        )
    named = [file for file in files if Path(file.path).name == source.file]
    chosen = named or [file for file in files if file.path.endswith(SUFFIXES)]
    if len(chosen) != 1:
        names = ", ".join(file.path for file in chosen or files)[:300]
        raise _FailureError(f"holds {len(chosen)} checkpoints where one is needed ({names})")
    return _gdown(place, source, chosen[0].id)


def _gdown(place: Place, source: Source, identifier: str) -> Path:
    partial = place.folder / f"{source.file}.partial"
    with _drive_errors() as gdown:
        gdown.download(
            id=identifier,
            output=str(partial),
            quiet=not sys.stderr.isatty(),
            resume=True,
            timeout=TIMEOUT,
            retries=2,
        )
    return _publish(partial, place.folder / source.file, source, source.address)


@contextmanager
def _drive_errors() -> Iterator[Any]:
    """Give gdown, and turn its errors into ours."""
    try:
        import gdown
    except ImportError as error:
        raise _FailureError(
            "is on Google Drive, which needs the package gdown (pip install gdown)"
        ) from error
    try:
        yield gdown
    except Exception as error:  # requests' and beautifulsoup's as well
        if "Max retries exceeded" in str(error):
            raise _FailureError("cannot be reached") from error
        raise _FailureError(f"is not given by Google Drive ({_text(error)})") from error


def _fetch_from_timm(place: Place, source: Source) -> Path:
    """Fetch a model of timm into Hugging Face's cache, by their own code."""
    try:
        import timm
        from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    except ImportError as error:
        raise _FailureError(f"needs the package {error.name} (pip install timm)") from error
    name = source.address.removeprefix("timm://")
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        near = get_close_matches(name, timm.list_pretrained(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise _FailureError(f"is no model of timm with published weights{hint}") from error
    if not config.hf_hub_id:
        if not config.url:
            raise _FailureError("has no published weights")
        return _fetch_direct(config.url, place, source)
    names = [config.hf_hub_filename] if config.hf_hub_filename else TIMM_FILES
    try:
        cached = (try_to_load_from_cache(config.hf_hub_id, file) for file in names)
        found = next((file for file in cached if isinstance(file, str)), None)
        if found is None:  # ask first: the hub's code goes on for a minute without network
            file = next(file for file in names if _exists(hf_hub_url(config.hf_hub_id, file)))
            found = hf_hub_download(config.hf_hub_id, file)
    except StopIteration:
        raise _FailureError(f"has none of {', '.join(names)} on the hub") from None
    except _FailureError:
        raise
    except Exception as error:  # of the network, of the hub and of its cache
        raise _FailureError(f"is not given by the hub ({_text(error)})") from error
    if Path(found).suffix != Path(source.file).suffix:
        return Path(found)
    own = place.folder / source.file  # so that it is found here the next time
    own.unlink(missing_ok=True)
    own.symlink_to(Path(found).absolute())
    _verify(own, source)
    return own


def _exists(address: str) -> bool:
    """Whether a server has a file; another answer than yes or no counts as yes."""
    try:
        _open(Request(address, method="HEAD")).close()
    except HTTPError as error:
        return error.code != 404
    except URLError as error:
        raise _FailureError(f"cannot be reached ({_text(error.reason)})") from error
    return True


_FETCHERS: dict[str, Callable[[Place, Source], Path]] = {
    "drive-file": _fetch_drive_file,
    "drive-folder": _fetch_drive_folder,
    "timm": _fetch_from_timm,
}
