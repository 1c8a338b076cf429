"""Checks before PyTorch reads a file: what would be read, and how much memory that takes.

:func:`torch.load` with ``weights_only=True`` decides which classes and functions a file may name,
and runs no code. But it believes the sizes that a file states. So archives are compared with the
length of the file, and the instructions of the pickle are followed without building anything, to
see the sizes that it asks for.
"""

import io
import math
import mmap
import os
import re
import struct
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

# Far above what honest checkpoints have: the largest ones hold some thousand tensors.
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_INSTRUCTIONS = 2_000_000
MAX_DEPTH = 100
MAX_ENTRIES = 1_000_000
# Views may repeat what is stored (tied weights, expanded masks), within this bound.
MAX_REPETITION = 8
MAX_SMALL = 64 * 2**20

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
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
}
_NUMBERS = re.compile(r"[<>|=]?([?bhilqBHILQefdFD]|[biufc](1|2|4|8|16)|[SU]\d{1,6})")
# they return a copy of the list that they are given
_COPIES = {f"builtins.{n}" for n in ("set", "frozenset", "list", "tuple", "dict")} | {
    "collections.OrderedDict", "collections.Counter", "torch.Size"}  # fmt: skip


class RefusedError(Exception):
    """Why a file is not read: the part of the sentence that follows its name."""


def damaged(reason: str) -> RefusedError:
    """The file is no checkpoint, or not a whole one.

    Args:
        reason: What is wrong, in a few words; may be empty.
    """
    return RefusedError(
        f"is damaged or not a PyTorch checkpoint{f' ({reason})' if reason else ''}, so it was "
        "refused; fetch it again, or save the state dict alone with torch.save"
    )


def code(name: str) -> RefusedError:
    """The file asks for a function or class that is not data.

    Args:
        name: Full name of what it asks for.
    """
    return RefusedError(
        f"was refused: reading it would run {name[:100]!r}; only tensors and plain data are read, "
        "so ask its author for a file with nothing but weights"
    )


def unusable(what: str) -> RefusedError:
    """The file is well-formed, but holds what cannot become a model's weights.

    Args:
        what: What it holds.
    """
    return RefusedError(
        f"was refused: it holds {what}; save the state dict alone, with ordinary tensors, by "
        "torch.save"
    )


def forged(what: str) -> RefusedError:
    """The file claims more than it has.

    Args:
        what: What it claims.
    """
    return RefusedError(
        f"was refused: {what}; torch.save writes no such file, so fetch it again or ask its author "
        "for another"
    )


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
            raise damaged(describe_content(head))


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
    start = head.lstrip().lower()
    if not head:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: run git lfs pull"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, as a failed download leaves it"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 10**8:
        return "it looks like safetensors: name it *.safetensors"
    if start.startswith((b"{", b"[")):
        return "it is JSON"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"(\xb5/\xfd")):
        return "it is compressed: unpack it first"
    if _is_tar(head):
        return "it is a tar archive: unpack it first"
    if head.startswith(b"\x89HDF"):
        return "it is an HDF5 file of another framework"
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
        raise forged("it has two members of the same name")
    for member in members:
        name = repr(member.filename[:60])
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise forged(f"its member {name} is compressed or encrypted")
        end = member.header_offset + 30 + member.file_size
        if member.file_size != member.compress_size or end > start:
            raise forged(f"its member {name} claims more bytes than there are")
    if sum(member.file_size for member in members) > size:
        raise forged("its members overlap")
    folder = members[0].filename.partition("/")[0].lower() if members else ""
    if f"{folder}/constants.pkl" in by_name:
        raise code("torch.jit.load")
    pickled = by_name.get(f"{folder}/data.pkl")
    if pickled is None:
        raise damaged("a zip archive without data.pkl")
    file.seek(pickled.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
    content = file.read(pickled.file_size)
    if pickled.CRC not in (0, zlib.crc32(content)):  # 0: written without checksums
        raise damaged("its data.pkl does not have the checksum it should have")

    def check(key: str, nbytes: int) -> None:
        member = by_name.get(f"{folder}/data/{key}".lower())
        if member is None or member.file_size < nbytes:
            raise forged(f"its tensor data {key[:60]!r} are missing or too short")

    _Follower(io.BytesIO(content), check, size).follow()


def _inspect_end(file: IO[bytes], size: int) -> None:
    """Check the end of a zip archive, so that there is one way only to understand the archive."""
    file.seek(max(0, size - _END.size - _LOCATOR_64.size - _END_64.size))
    tail = file.read()
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise damaged("its end is missing, so it was cut off")
    *_, length, offset, comment = _END.unpack(tail[-_END.size :])
    end = size - _END.size
    rest = tail[: -_END.size]
    if len(rest) == _LOCATOR_64.size + _END_64.size and rest[_END_64.size :][:4] == b"PK\6\7":
        end -= len(rest)
        _, _, located, _ = _LOCATOR_64.unpack(rest[_END_64.size :])
        signature, *_, length, offset = _END_64.unpack(rest[: _END_64.size])
        if located != end or signature != b"PK\6\6":
            raise damaged("its directory is broken")
    if comment or offset + length != end:
        raise damaged("its directory is broken")
    if length > MAX_DIRECTORY_BYTES:
        raise forged(f"its directory has {length} bytes")


def _inspect_legacy(content: mmap.mmap) -> None:
    """Check the format before PyTorch 1.6: five pickles, then the data of all tensors."""
    needed: dict[str, int] = {}

    def check(key: str, nbytes: int) -> None:
        needed[key] = nbytes
        if sum(needed.values()) > len(content):
            raise damaged("its tensor data are longer than the file, so it was cut off or forged")

    def follow() -> Any:
        return _Follower(content, check, len(content)).follow()

    if follow() != _LEGACY_MAGIC:
        raise damaged("")
    for _ in ("version", "byte order of the writer", "checkpoint"):
        follow()
    keys = follow()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(needed):
        raise damaged("its list of tensors is broken")
    if content.tell() + sum(needed.values()) + 8 * len(needed) > len(content):
        raise damaged("it was cut off")


@dataclass(frozen=True)
class _Name:
    """A class, function or constant that the file names."""

    name: str


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
    """Stands for what a call returns, and for a dict."""

    origin: str = "builtins.dict"
    itemsize: int = 0  # of a numpy dtype


class _Follower:
    """Follows the instructions of one pickle; what it builds is replaced by stand-ins.

    Args:
        file: At the beginning of the pickle; afterwards at its end.
        check_storage: Raises when the file does not have so many bytes of tensor data.
        file_size: Bytes of the whole file.
    """

    def __init__(
        self,
        file: io.BytesIO | mmap.mmap,
        check_storage: Callable[[str, int], None],
        file_size: int,
    ) -> None:
        self.file = file
        self.check_storage = check_storage
        self.storages: dict[str, _Storage] = {}
        self.copied: dict[int, Any] = {}
        # bytes that tensors and copies of plain data may take
        self.budget = MAX_REPETITION * file_size + MAX_SMALL

    def follow(self) -> Any:
        """Walk to the end; the instructions are those that PyTorch's safe reader knows."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for number, (instruction, value, _) in enumerate(genops(self.file)):
            if number > MAX_INSTRUCTIONS:
                raise forged(f"it has more than {MAX_INSTRUCTIONS} objects")
            match instruction.name:
                case "BINUNICODE" | "SHORT_BINSTRING" | "BINFLOAT":
                    stack.append(value)
                case "BININT" | "BININT1" | "BININT2" | "LONG1":
                    stack.append(value)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True}.get(instruction.name, False))
                case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                    kinds = {"EMPTY_DICT": _Object, "EMPTY_LIST": list}
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
                    _require(type(stack[-1]) is list)
                    stack[-1].append(item)
                case "APPENDS":
                    items, stack = stack, marks.pop()
                    _require(type(stack[-1]) is list)
                    stack[-1].extend(items)
                case "SETITEM":
                    del stack[-2:]
                case "SETITEMS":
                    _require(len(stack) % 2 == 0)
                    stack = marks.pop()
                case "REDUCE" | "NEWOBJ":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self.call(function, arguments))
                case "BUILD":
                    self.build(stack.pop(-2), stack[-1])
                    stack[-1] = _Object()
                case "BINPERSID":
                    stack[-1] = self.storage(*stack[-1])
                case "PROTO":
                    if value != 2:
                        raise unusable(f"a pickle of protocol {value}, but 2 is read")
                case "STOP":
                    return stack.pop()
                case other:
                    raise unusable(f"the pickle instruction {other}")
        raise damaged("")

    def storage(self, _: str, kind: _Name, key: str, place: str, count: int, view: Any = None):
        """Return tensor data that the file must have."""
        found = _STORAGE.fullmatch(kind.name)
        if found is None or found[1] not in _STORAGE_BYTES:
            raise unusable("a quantised tensor")
        _require(isinstance(key, str) and _is_count(count))
        storage = _Storage(key, found[1], count)
        if key not in self.storages:
            self.check_storage(key, count * storage.itemsize)
        if self.storages.setdefault(key, storage) != storage:
            raise forged(f"its tensor data {key[:60]!r} are described twice")
        if view is None:
            return storage
        _, offset, length = view
        if not (_is_count(offset) and _is_count(length) and offset + length <= count):
            raise forged(f"a view lies outside of its tensor data {key[:60]!r}")
        return _Storage(key, storage.kind, length)

    def call(self, function: Any, arguments: Any) -> Any:
        """Check the sizes that a call asks for; PyTorch decides which functions may be called."""
        if isinstance(function, _Object):
            raise code(function.origin)
        _require(isinstance(function, _Name) and isinstance(arguments, tuple))
        name = function.name.replace("__builtin__.", "builtins.", 1)
        first = arguments[0] if arguments else None
        if name in _UNUSABLE:
            raise unusable(_UNUSABLE[name])
        if _STORAGE.fullmatch(name) or name in ("torch.Tensor", "torch.nn.parameter.Parameter"):
            raise code(name)  # they would take a size
        if name.startswith("torch._utils._rebuild_tensor"):
            self.tensor(*arguments)
        elif name == "torch._tensor._rebuild_from_type_v2":
            self.call(first, arguments[2])
        elif name in _COPIES and isinstance(first, list):
            self.spend(8 * len(first) * self.copied.setdefault(id(first), [first, 0])[1])
            self.copied[id(first)][1] += 1
        elif name == "_codecs.encode":
            # other codecs may double the length, and the result may be encoded again
            _require(isinstance(first, str) and arguments[1] in ("latin1", "latin-1"))
            self.spend(len(first))
            return first.encode("latin-1")
        elif name == "builtins.bytearray":
            _require(isinstance(first, (str, bytes, type(None))))  # a number would be a length
            self.spend(len(first or ""))
        elif name == "numpy.dtype":
            return self.dtype(first)
        elif name.endswith(".multiarray._reconstruct"):
            _require(arguments[1] == (0,))
        return _Object(name)

    def build(self, target: Any, state: Any) -> None:
        """Check the state of a numpy dtype; other objects check theirs, or take any."""
        if isinstance(target, _Object) and target.itemsize:
            _require(isinstance(state, tuple) and len(state) > 5)
            _require(state[5] in (-1, target.itemsize))

    def dtype(self, name: Any) -> _Object:
        """Return a numpy dtype of numbers or text."""
        name = name.decode() if isinstance(name, bytes) else name
        if name in ("O", "O8"):
            raise unusable("a numpy array of Python objects")
        if not isinstance(name, str) or _NUMBERS.fullmatch(name) is None:
            raise unusable("a numpy array that is not of numbers")
        return _Object("numpy.dtype", np.dtype(name).itemsize)

    def tensor(
        self, storage: _Storage, offset: int, size: tuple, stride: tuple, *more: Any
    ) -> None:
        """Check that a tensor lies inside its data, and count its bytes."""
        dtypes = [part for part in more if isinstance(part, _Name)]  # of an untyped storage
        dtype = getattr(torch, dtypes[0].name.removeprefix("torch."), None) if dtypes else None
        itemsize = dtype.itemsize if isinstance(dtype, torch.dtype) else storage.itemsize
        _require(isinstance(size, tuple) and isinstance(stride, tuple))
        _require(len(size) == len(stride) <= 64 and all(map(_is_count, (offset, *size, *stride))))
        if 0 not in size:
            last = offset + sum(s * (n - 1) for n, s in zip(size, stride, strict=True))
            if (last + 1) * itemsize > storage.count * storage.itemsize:
                raise forged(f"a tensor of shape {str(size)[:80]} is longer than its data")
        self.spend(math.prod(size) * itemsize)

    def spend(self, count: int) -> None:
        """Count bytes that reading would take."""
        self.budget -= count
        if self.budget < 0:
            raise forged("its tensors claim far more memory than the file has bytes")


def _require(condition: bool) -> None:
    if not condition:
        raise damaged("")


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
        elif not own:
            return 0, 1
        if id(value) not in seen:
            if level > MAX_DEPTH:
                raise forged(f"its containers are nested more than {MAX_DEPTH} deep")
            measures = [measure(child, level + 1) for child in children]
            seen[id(value)] = (
                1 + max((height for height, _ in measures), default=0),
                1 + sum(count for _, count in measures),
            )
        height, count = seen[id(value)]
        if level + height > MAX_DEPTH + 1:
            raise forged(f"its containers are nested more than {MAX_DEPTH} deep")
        if count > max(MAX_ENTRIES, 10 * length):
            raise forged("its containers repeat each other without end")
        return height, count

    measure(checkpoint, 0)
