"""Checks before PyTorch reads a file: what would be read, and how much memory and time that takes.

:func:`torch.load` with ``weights_only=True`` decides which classes and functions a file may name,
and runs no code. But it believes the sizes that a file states. So archives are compared with the
length of the file, and the instructions of the pickle are followed without building anything: each
has a price, and all together may cost :data:`MOST_BYTES` and twice the length of the file.
"""

import io
import math
import mmap
import os
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickletools import genops
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

MOST_BYTES = 180 * 2**20
# Bytes that an instruction costs at most, with its share of the time; honest files have some 50
# instructions and 3 calls for a tensor.
PRICES = {"GLOBAL": 3000, "REDUCE": 1500, "NEWOBJ": 1500, "BINPERSID": 1500, "BUILD": 300} | {
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), 360),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MARK"), 140),
}
PRICE = 90  # of any other instruction, and of an item of a list or dict that is copied
MOST_ODD_KEYS = 1000  # keys that anyone can choose such that they collide, which takes their square
MOST_WIDE = 32 * 2**20  # bytes of a text that is not of Latin letters only
MAX_DIRECTORY_BYTES = 8 * 2**20
MAX_DEPTH = 100
# Views may repeat what is stored (tied weights, expanded masks), within this bound.
MAX_REPETITION = 8
MAX_SMALL = 64 * 2**20

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WIDE = re.compile(rb"[\xc4-\xff]")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_STORAGE_BYTES = {
    **{"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2},
    **{"Char": 1, "Byte": 1, "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1},
}
_UNUSABLE = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (device 'meta')",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another kind of device",
}
_NUMBERS = re.compile(r"[<>|=]?([?bhilqBHILQefdFD]|[biufc](1|2|4|8|16)|[SU]\d{1,6})")
_SENTENCES = {
    "damaged": "is damaged or not a PyTorch checkpoint{}, so it was refused; fetch it again, or "
    "save the state dict alone with torch.save",
    "code": "was refused: reading it would run {!r}; only tensors and plain data are read, so ask "
    "its author for a file with nothing but weights",
    "unusable": "was refused: it holds {}; save the state dict alone, with ordinary tensors, by "
    "torch.save",
    "forged": "was refused: {}; torch.save writes no such file, so fetch it again or ask its "
    "author for another",
    "other": "{}",
}
_HEADS = (
    ((b"version https://git-lfs",), "it is a pointer of Git LFS: run git lfs pull"),
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head"),
        "it is a web page, as a failed download leaves it",
    ),
    ((b"{", b"["), "it is JSON"),
    (
        (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"7z\xbc\xaf", b"(\xb5/\xfd"),
        "it is compressed: unpack it first",
    ),
    ((b"\x89hdf",), "it is an HDF5 file of another framework"),
)


class RefusedError(Exception):
    """Why a file is not read: the part of the sentence that follows its name.

    Args:
        kind: ``'damaged'`` (no checkpoint, or not a whole one), ``'code'`` (asks for a function or
            class that is not data), ``'unusable'`` (holds what cannot become weights),
            ``'forged'`` (claims more than it has); with ``'other'``, ``what`` is the sentence.
        what: What it asks for, holds or claims; for ``'damaged'`` the reason, which may be empty.
    """

    def __init__(self, kind: str, what: str = "") -> None:
        if kind == "damaged" and what:
            what = f" ({what})"
        super().__init__(_SENTENCES[kind].format(what[:200]))


def _require(condition: bool) -> None:
    if not condition:
        raise RefusedError("damaged")


def inspect_file(path: Path) -> None:
    """Refuse a file that is no checkpoint, or that would take far more memory than its size.

    Args:
        path: A regular file, as :func:`torch.save` writes them: a zip archive, or the format
            before PyTorch 1.6.

    Raises:
        RefusedError: What is wrong.
        Exception: Any other, when the file is damaged in a way that has no name here.
    """
    with path.open("rb") as file:
        head = file.read(512)
        if head.startswith(b"PK\x03\x04"):
            _inspect_zip(file)
        elif head[:1] == b"\x80" and len(head) > 2 and not _is_tar(head):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _inspect_legacy(content)
        else:
            raise RefusedError("damaged", describe_content(head))


def _is_tar(head: bytes) -> bool:
    """Whether a file begins as a tar archive, of which PyTorch would unpack the members."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def describe_content(head: bytes) -> str:
    """What a file that is no checkpoint looks like.

    Args:
        head: Its first bytes.

    Returns:
        A few words, or nothing when there is no telling.
    """
    if not head:
        return "it is empty"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 10**8:
        return "it looks like safetensors: name it *.safetensors"
    for starts, what in _HEADS:
        if head.lstrip().lower().startswith(starts):
            return what
    if _is_tar(head):
        return "it is a tar archive: unpack it first"
    if not head.strip(b"\0"):
        return "it begins with zeros, as an unfinished copy does"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "it is text"
    return ""


def _inspect_zip(file: IO[bytes]) -> None:
    """Check that the members of an archive are stored, apart, and all in the file."""
    size = os.fstat(file.fileno()).st_size
    _inspect_end(file, size)
    with zipfile.ZipFile(file) as archive:
        members, start = archive.infolist(), archive.start_dir
    by_name = {member.filename.lower(): member for member in members}  # as PyTorch compares
    if len(by_name) != len(members):
        raise RefusedError("forged", "it has two members of the same name")
    for member in members:
        name = repr(member.filename[:60])
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise RefusedError("forged", f"its member {name} is compressed or encrypted")
        end = member.header_offset + 30 + member.file_size
        if member.file_size != member.compress_size or end > start:
            raise RefusedError("forged", f"its member {name} claims more bytes than there are")
    if sum(member.file_size for member in members) > size:
        raise RefusedError("forged", "its members overlap")
    folder = members[0].filename.partition("/")[0].lower() if members else ""
    if f"{folder}/constants.pkl" in by_name:
        raise RefusedError("code", "torch.jit.load")
    pickled = by_name.get(f"{folder}/data.pkl")
    if pickled is None:
        raise RefusedError("damaged", "a zip archive without data.pkl")
    file.seek(pickled.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
    content = file.read(pickled.file_size)
    if pickled.CRC not in (0, zlib.crc32(content)):  # 0: written without checksums
        raise RefusedError("damaged", "its data.pkl does not have the checksum it should have")

    def check(key: str, nbytes: int) -> None:
        member = by_name.get(f"{folder}/data/{key}".lower())
        if member is None or member.file_size < nbytes:
            what = f"its tensor data {key[:60]!r} are missing or too short"
            raise RefusedError("forged", what)

    _Follower(io.BytesIO(content), check, size).follow()


def _inspect_end(file: IO[bytes], size: int) -> None:
    """Check the end of a zip archive, so that there is one way only to understand the archive."""
    file.seek(max(0, size - _END.size - _LOCATOR_64.size - _END_64.size))
    tail = file.read()
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise RefusedError("damaged", "its end is missing, so it was cut off")
    *_, length, offset, comment = _END.unpack(tail[-_END.size :])
    end, rest, located = size - _END.size, tail[: -_END.size], None
    if len(rest) == _LOCATOR_64.size + _END_64.size and rest[_END_64.size :][:4] == b"PK\6\7":
        end -= len(rest)
        _, _, located, _ = _LOCATOR_64.unpack(rest[_END_64.size :])
        signature, *_, length, offset = _END_64.unpack(rest[: _END_64.size])
        located = located if signature == b"PK\6\6" else -1
    if comment or offset + length != end or located not in (None, end):
        raise RefusedError("damaged", "its directory is broken")
    if length > MAX_DIRECTORY_BYTES:
        raise RefusedError("forged", f"its directory has {length} bytes")


def _inspect_legacy(content: mmap.mmap) -> None:
    """Check the format before PyTorch 1.6: five pickles, then the data of all tensors."""
    needed: dict[str, int] = {}
    total = 0

    def check(key: str, nbytes: int) -> None:
        nonlocal total
        needed[key] = nbytes
        total += nbytes
        if total > len(content):
            what = "its tensor data are longer than the file, so it was cut off or forged"
            raise RefusedError("damaged", what)

    follower = _Follower(content, check, len(content))
    _require(follower.follow() == _LEGACY_MAGIC)
    for _ in ("version", "byte order of the writer", "checkpoint"):
        follower.follow()
    keys = follower.follow()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(needed):
        raise RefusedError("damaged", "its list of tensors is broken")
    if content.tell() + total + 8 * len(needed) > len(content):
        raise RefusedError("damaged", "it was cut off")


class _Name(str):
    """A class, function or constant that the file names."""


class _Keys(list):
    """Stands for a dict."""


@dataclass(frozen=True)
class _Storage:
    """Tensor data that the file names."""

    key: str
    kind: str
    count: int

    @property
    def itemsize(self) -> int:
        return _STORAGE_BYTES[self.kind]


@dataclass(frozen=True)
class _Object:
    """Stands for what a call returns."""

    origin: str
    itemsize: int = 0  # of a numpy dtype


class _Reader:
    """Reads a pickle; a long text is refused before it becomes four bytes for each of its own."""

    def __init__(self, file: io.BytesIO | mmap.mmap) -> None:
        self.file, self.readline, self.tell = file, file.readline, file.tell

    def read(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) > MOST_WIDE and _WIDE.search(data):
            raise RefusedError("forged", "a text in it asks for far more memory than it has bytes")
        return data


class _Follower:
    """Follows the instructions of pickles; what they build is replaced by stand-ins.

    Args:
        file: At the beginning of a pickle; afterwards at its end.
        check_storage: Raises when the file does not have so many bytes of tensor data.
        file_size: Bytes of the whole file.
    """

    def __init__(
        self,
        file: io.BytesIO | mmap.mmap,
        check_storage: Callable[[str, int], None],
        file_size: int,
    ) -> None:
        self.file = _Reader(file)
        self.check_storage = check_storage
        self.storages: dict[str, _Storage] = {}
        self.budget = MOST_BYTES + 2 * file_size
        self.claims = MAX_REPETITION * file_size + MAX_SMALL  # bytes that tensors may have
        self.odd_keys = MOST_ODD_KEYS

    def follow(self) -> Any:
        """Walk to the end; the instructions are those that PyTorch's safe reader knows."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for instruction, value, _ in genops(self.file):
            self.spend(PRICES.get(instruction.name, PRICE))
            match instruction.name:
                case "BINUNICODE" | "SHORT_BINSTRING":
                    self.spend(sys.getsizeof(value) * 3 // 2)  # and its bytes, for a moment
                    stack.append(value)
                case "BINFLOAT" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                    stack.append(value)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True}.get(instruction.name, False))
                case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                    kinds = {"EMPTY_DICT": _Keys, "EMPTY_LIST": list}
                    stack.append(kinds.get(instruction.name, tuple)())
                case "GLOBAL":
                    stack.append(_Name(value.replace(" ", ".", 1)))
                case "BINPUT" | "LONG_BINPUT":
                    memo[value] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[value])
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "TUPLE":
                    items, stack = tuple(stack), marks.pop()
                    stack.append(items)
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    length = int(instruction.name[-1])
                    stack[-length:] = [tuple(stack[-length:])]
                case "APPEND":
                    item = stack.pop()
                    self.add([item], stack[-1])
                case "APPENDS":
                    items, stack = stack, marks.pop()
                    self.add(items, stack[-1])
                case "SETITEM":
                    key, _ = stack.pop(-2), stack.pop()
                    self.add([key], stack[-1], keys=True)
                case "SETITEMS":
                    items, stack = stack, marks.pop()
                    _require(len(items) % 2 == 0)
                    self.add(items[::2], stack[-1], keys=True)
                case "REDUCE" | "NEWOBJ":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self.call(function, arguments))
                case "BUILD":
                    self.build(stack.pop(-2), stack[-1])
                    stack[-1] = _Object("what was built")
                case "BINPERSID":
                    stack[-1] = self.storage(*stack[-1])
                case "PROTO":
                    if value != 2:
                        what = f"a pickle of protocol {value}, but 2 is read"
                        raise RefusedError("unusable", what)
                case "STOP":
                    return stack.pop()
                case other:
                    raise RefusedError("unusable", f"the pickle instruction {other}")
        raise RefusedError("damaged")

    def add(self, items: list[Any], target: Any, keys: bool = False) -> None:
        """Add items to a list, or the keys of items to a dict."""
        if keys:
            self.check_keys(items)
        else:
            _require(type(target) is list)
        if isinstance(target, list):  # else an OrderedDict, say
            target.extend(items)

    def spend(self, count: int) -> None:
        """Count bytes that reading takes."""
        self.budget -= count
        if self.budget < 0:
            raise RefusedError("forged", "it asks for far more memory than the file has bytes")

    def spend_copies(self, value: Any, depth: int = 3) -> None:
        """Count the bytes of what a function may copy: its arguments, and what is in them."""
        if isinstance(value, (str, bytes)):
            self.spend(len(value))
        elif isinstance(value, (list, tuple)):
            self.spend(PRICE * len(value))
            for item in value if depth and isinstance(value, tuple) else ():
                self.spend_copies(item, depth - 1)

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse many keys of equal hashes, and tuples whose hash takes for ever.

        Python mixes a secret into the hash of text; those of numbers can be chosen, and a tuple
        that repeats a tuple is gone through as often as it occurs.
        """
        for key in keys:
            if isinstance(key, (str, bytes)) or (isinstance(key, int) and abs(key) < 2**60):
                continue
            self.odd_keys -= 1
            nested = isinstance(key, tuple) and any(isinstance(item, tuple) for item in key)
            if nested or self.odd_keys < 0:
                raise RefusedError("forged", "it has keys that are neither names nor numbers")
            self.spend_copies(key)

    def storage(self, _: str, kind: _Name, key: str, place: str, count: int, view: Any = None):
        """Return tensor data that the file must have."""
        found = _STORAGE.fullmatch(kind)
        if found is None or found[1] not in _STORAGE_BYTES:
            raise RefusedError("unusable", "a quantised tensor")
        _require(isinstance(key, str) and _is_count(count))
        storage = _Storage(key, found[1], count)
        if key not in self.storages:
            self.check_storage(key, count * storage.itemsize)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedError("forged", f"its tensor data {key[:60]!r} are described twice")
        if view is None:
            return storage
        _, offset, length = view
        if not (_is_count(offset) and _is_count(length) and offset + length <= count):
            what = f"a view lies outside of its tensor data {key[:60]!r}"
            raise RefusedError("forged", what)
        return _Storage(key, storage.kind, length)

    def call(self, function: Any, arguments: Any) -> Any:
        """Check the sizes that a call asks for; PyTorch decides which functions may be called."""
        if isinstance(function, _Object):
            raise RefusedError("code", function.origin)
        _require(isinstance(function, _Name) and isinstance(arguments, tuple))
        self.spend_copies(arguments)
        name = function.replace("__builtin__.", "builtins.", 1)
        first = arguments[0] if arguments else None
        if name in _UNUSABLE:
            raise RefusedError("unusable", _UNUSABLE[name])
        if _STORAGE.fullmatch(name) or name in ("torch.Tensor", "torch.nn.parameter.Parameter"):
            raise RefusedError("code", name)  # they would take a size
        if name.startswith("torch._utils._rebuild_tensor"):
            self.tensor(*arguments)
        elif name == "torch._tensor._rebuild_from_type_v2":
            self.call(first, arguments[2])
        elif name in ("builtins.set", "builtins.frozenset", "collections.Counter"):
            self.check_keys(first if isinstance(first, (list, tuple)) else ())
        elif name == "collections.OrderedDict":
            self.check_keys(pair[0] for pair in first or ())
        elif name == "_codecs.encode":
            # other codecs may double the length, and the result may be encoded again
            _require(isinstance(first, str) and arguments[1] in ("latin1", "latin-1"))
            return first.encode("latin-1")
        elif name == "builtins.bytearray":
            _require(isinstance(first, (str, bytes, type(None))))  # a number would be a length
        elif name == "numpy.dtype":
            return self.dtype(first)
        elif name.endswith(".multiarray._reconstruct"):
            _require(arguments[1] == (0,))
        elif name.endswith(".multiarray.scalar"):
            self.spend(first.itemsize)
        return _Object(name)

    def build(self, target: Any, state: Any) -> None:
        """Check the state of a numpy dtype; other objects check theirs, or take any."""
        self.spend_copies(state)
        if isinstance(target, _Object) and target.itemsize:
            _require(isinstance(state, tuple) and len(state) > 5)
            _require(state[5] in (-1, target.itemsize))

    def dtype(self, name: Any) -> _Object:
        """Return a numpy dtype of numbers or text."""
        name = name.decode() if isinstance(name, bytes) else name
        if name in ("O", "O8"):
            raise RefusedError("unusable", "a numpy array of Python objects")
        if not isinstance(name, str) or _NUMBERS.fullmatch(name) is None:
            raise RefusedError("unusable", "a numpy array that is not of numbers")
        return _Object("numpy.dtype", np.dtype(str(name)).itemsize)

    def tensor(
        self, storage: _Storage, offset: int, size: tuple, stride: tuple, *more: Any
    ) -> None:
        """Check that a tensor lies inside its data, and count its bytes."""
        dtypes = [part for part in more if isinstance(part, _Name)]  # of an untyped storage
        dtype = getattr(torch, dtypes[0].removeprefix("torch."), None) if dtypes else None
        itemsize = dtype.itemsize if isinstance(dtype, torch.dtype) else storage.itemsize
        _require(isinstance(size, tuple) and isinstance(stride, tuple))
        _require(len(size) == len(stride) <= 64 and all(map(_is_count, (offset, *size, *stride))))
        if 0 not in size:
            last = offset + sum(s * (n - 1) for n, s in zip(size, stride, strict=True))
            if (last + 1) * itemsize > storage.count * storage.itemsize:
                what = f"a tensor of shape {str(size)[:80]} is longer than its data"
                raise RefusedError("forged", what)
        self.claims -= math.prod(size) * itemsize
        if self.claims < 0:
            what = "its tensors claim far more memory than the file has bytes"
            raise RefusedError("forged", what)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def check_content(checkpoint: Any, length: int) -> None:
    """Refuse what was read if going through it would not end, or not do what it seems to.

    An object may occur in many places; readers of the checkpoint go through all of them.

    Args:
        checkpoint: What a file holds.
        length: Bytes of the file.

    Raises:
        RefusedError: It is nested too deep, has too many entries when written out, or attributes
            that hide methods.
    """
    seen: dict[int, tuple[int, int]] = {}
    most = max(1_000_000, 10 * length)

    def measure(value: Any, level: int) -> tuple[int, int]:
        own = vars(value) if hasattr(value, "__dict__") and not isinstance(value, type) else {}
        if isinstance(value, Tensor):
            _require(not value._backward_hooks and not any(hasattr(Tensor, key) for key in own))
        if isinstance(value, OrderedDict):
            _require(own.keys() <= {"_metadata"})  # what Module.state_dict() notes
        children: Iterable[Any] = own.values()
        if isinstance(value, Mapping):
            children = [*value.values(), *children]
        elif isinstance(value, (list, tuple, set, frozenset)):
            children = value
        if not children:
            return 0, 1
        height, count = seen.get(id(value), (0, 0))
        if not count:
            if level <= MAX_DEPTH:
                measures = [measure(child, level + 1) for child in children]
                height = 1 + max(height for height, _ in measures)
                count = 1 + sum(count for _, count in measures)
            seen[id(value)] = height, count
        if level + height > MAX_DEPTH:
            raise RefusedError("forged", f"its containers are nested more than {MAX_DEPTH} deep")
        if count > most:
            raise RefusedError("forged", "its containers repeat each other without end")
        return height, count

    measure(checkpoint, 0)
