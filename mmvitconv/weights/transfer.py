"""One file by http: in as many attempts as bring it on, within bounds of time and size."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from string import punctuation
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mmvitconv.version import __version__

__all__ = ["TransferError", "discard", "download", "is_there", "text_of"]

Show = Callable[[int, "int | None"], None]

TIMEOUT = 10.0  # seconds in which a server has to say something
WINDOW = 30.0  # seconds in which it has to send LEAST bytes
LEAST = 3_000
ATTEMPTS = 5  # in a row that bring less than PROGRESS bytes
PROGRESS = 1 << 20
PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
CHUNK = 1 << 16
# What only the local disk says, never the network.
LOCAL_ERRORS = frozenset(
    getattr(errno, name, -1)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG", "ENOENT",
                 "ENOTDIR", "EISDIR")
)  # fmt: skip


class TransferError(Exception):
    """Why a place does not give the file: what a sentence says after its address."""


def download(address: str, partial: Path, limit: int, show: Show) -> bool:
    """Download a file; a part that an earlier attempt has left is continued.

    Args:
        address: ``http://`` or ``https://``.
        partial: The file to write or to continue.
        limit: Bytes that it may have at most.
        show: Called with the bytes that are there and that are expected, if that is known.

    Returns:
        Whether the file comes from several answers of the server.

    Raises:
        TransferError: The file cannot be had.
        OSError: It cannot be written.
    """
    failures = 0
    while True:
        before = _size(partial)
        try:
            return _stream(address, partial, limit, show)
        except HTTPError as error:
            reason, rounds = f"is refused with {error.code} ({text_of(error.reason)})", ATTEMPTS
            if error.code == 416:  # what is here is no part of what is there
                discard(partial)
            elif error.code not in (408, 425, 429) and error.code < 500:
                raise TransferError(reason) from error
        except URLError as error:  # no connection: a machine without network
            reason = f"cannot be reached ({text_of(error.reason)})"
            rounds = 1 if isinstance(error.reason, TimeoutError) else 2
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in LOCAL_ERRORS:
                raise
            reason, rounds = f"stops answering ({text_of(error)})", ATTEMPTS
        except ValueError as error:
            raise TransferError(f"is no address ({text_of(error)})") from error
        failures = 1 if _size(partial) - before >= PROGRESS else failures + 1
        if failures >= rounds:
            raise TransferError(reason)
        time.sleep(PAUSE * 2 ** (failures - 1))


def _stream(address: str, partial: Path, limit: int, show: Show) -> bool:
    """Download a file in one attempt, from where an earlier one has stopped; whether one had."""
    notes = _notes(partial)
    headers = {"User-Agent": f"mmvitconv/{__version__}", "Accept-Encoding": "identity"}
    done = _size(partial)
    version, length = _read_version(notes, address) if done else ("", None)
    if version:
        headers |= {"Range": f"bytes={done}-", "If-Range": version}
    with _open(Request(quote(address, safe=punctuation), headers=headers)) as reply:
        if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise TransferError("is sent compressed, though that was not asked for")
        is_part = reply.status == 206 and bool(version)
        if not is_part:
            done = 0  # the server sends the whole file
        left = reply.headers.get("Content-Length", "")
        total = done + int(left) if left.isdecimal() else None
        if is_part and (
            total != length
            or not reply.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        ):
            discard(partial)
            raise ConnectionError("another part than the one that was asked for")
        _check_room(partial, total, done, limit)
        facts = {"address": address, "version": _version(reply), "length": total}
        notes.write_text(json.dumps(facts), "utf-8")
        try:
            with partial.open("ab" if done else "wb") as file:
                received = _copy(reply, file, done, total, limit, show)
        except TransferError:
            discard(partial)
            raise
    if total is not None and received != total:
        raise ConnectionError(f"the connection ended after {received} of {total} bytes")
    return is_part


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
    show: Show,
) -> int:
    """Copy an answer into a file; returns how many bytes that has now."""
    began, mark = time.monotonic(), done
    while chunk := reply.read1(CHUNK):
        file.write(chunk)
        done += len(chunk)
        show(done, total)
        if done > limit:
            raise TransferError(f"sends more than {limit / 1e6:.0f} MB, which it should not have")
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
        raise TransferError(f"has {total / 1e6:.0f} MB, more than the {limit / 1e6:.0f} expected")
    free = shutil.disk_usage(partial.parent).free
    if total - done > free:
        raise TransferError(
            f"has {total / 1e6:.0f} MB, but the disk of {partial.parent} has {free / 1e6:.0f} left"
        )


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to http and https only, and none from https to http."""

    def redirect_request(self, req: Request, *args: Any) -> Request | None:
        """Return the next request, or raise."""
        target = args[-1]
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(target).scheme not in allowed:
            raise TransferError(f"redirects to {target}, which is not followed")
        return super().redirect_request(req, *args)


def _version(reply: HTTPResponse) -> str:
    """Return what says that two answers are parts of the same file; empty if nothing does."""
    tag = reply.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else reply.headers.get("Last-Modified", "")


def _read_version(notes: Path, address: str) -> tuple[str, int | None]:
    """Return version and length of the file that an unfinished one is the beginning of."""
    try:
        facts = json.loads(notes.read_text("utf-8"))
        return (facts["version"], facts["length"]) if facts["address"] == address else ("", None)
    except (OSError, ValueError, TypeError, KeyError):
        return "", None


def is_there(address: str) -> bool:
    """Return whether a server has a file; another answer than yes or no counts as yes.

    Args:
        address: ``http://`` or ``https://``.

    Raises:
        TransferError: The server cannot be reached.
    """
    try:
        _open(Request(address, method="HEAD")).close()
    except HTTPError as error:
        return error.code != 404
    except URLError as error:
        raise TransferError(f"cannot be reached ({text_of(error.reason)})") from error
    return True


def discard(partial: Path) -> None:
    """Remove an unfinished file and what is known about it.

    Args:
        partial: The file; it need not be there.
    """
    for path in (partial, _notes(partial)):
        path.unlink(missing_ok=True)


def _notes(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def text_of(error: object) -> str:
    """Return an error on one line, without signs that would not be seen.

    Args:
        error: An exception or a text.
    """
    if isinstance(error, TimeoutError) and (not error.args or "timed out" in str(error)):
        return f"nothing within {TIMEOUT:.0f} s"
    told = error.strerror if isinstance(error, OSError) and error.strerror else error
    shown = "".join(sign if sign.isprintable() else " " for sign in str(told))
    return " ".join(shown.split())[:200] or type(error).__name__
