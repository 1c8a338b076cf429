"""What a checkpoint can be named by: a path, a name of the index, or an address."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from mmvitconv.errors import CheckpointError
from mmvitconv.resources import cache_home
from mmvitconv.weights.index import Source, find_weights, read_index

__all__ = [
    "SCHEMES",
    "Place",
    "address_of",
    "drive_id",
    "find_place",
    "title_of",
]

SCHEMES = ("mmvitconv", "timm", "https", "http")
TIMM_FILE = "model.safetensors"
GOOGLE = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")


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
            if drive_id(source.address) == drive_id(address) != "" or source.address == address:
                path = f"{entry.name}/{source.file}"
                return Place(address, home / entry.name, (source,), (path,))
    source, path = _foreign_source(scheme, rest, address)
    folder = home / hashlib.sha256(address.encode("utf-8", "replace")).hexdigest()[:16]
    return Place(address, folder, (source,), (path,))


def _foreign_source(scheme: str, rest: str, address: str) -> tuple[Source, str]:
    """Return the source of an address that is not in the index, and a mirror's name for it."""
    drive = drive_id(address)
    if drive:
        kind = "drive-folder" if "/folders/" in address else "drive-file"
        return Source(kind, address, f"{drive}.pth", named="here"), f"drive.google.com/{drive}"
    if scheme == "timm" and rest:
        return Source("timm", address, TIMM_FILE), f"timm/{rest}/{TIMM_FILE}"
    host, path = _split(address)
    if scheme not in ("http", "https") or not host:
        raise CheckpointError(
            f"{address!r} is no address that checkpoints are read from; give the path of a file, "
            "mmvitconv://NAME ('mmvitconv weights list' shows the names), timm://MODEL or https://"
        )
    name = re.sub(r"[^\w.+-]", "_", Path(unquote(path)).name)[-120:].lstrip(".")
    query = urlsplit(address).query
    mirrored = f"{host}{unquote(path)}" + (f"?{query}" if query else "")
    return Source("direct", address, name or "checkpoint"), mirrored


def _split(address: str) -> tuple[str, str]:
    """Return host and path of an address; an empty host where it has none."""
    try:
        parts = urlsplit(address)
        return parts.netloc.rpartition("@")[2], parts.path
    except ValueError:  # brackets that do not close
        return "", ""


def drive_id(address: str) -> str:
    """Return Google's id of a file or folder; empty for other addresses.

    Args:
        address: Any address.
    """
    host, path = _split(address)
    if host not in GOOGLE:
        return ""
    found = re.search(r"/(?:d|folders)/([\w-]+)", path)
    return found[1] if found else parse_qs(urlsplit(address).query).get("id", [""])[0]
