"""Looks at a PyTorch file before PyTorch does: what would be read, and how much memory that takes.

PyTorch's safe reader runs no code, but it believes the sizes that a file states: a few bytes can
ask for terabytes, or for memory beyond the data. Here the pickle inside is walked instruction by
instruction without building anything it asks for, and every size is compared with the file's.
"""

import io
import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickletools import genops
from typing import IO, Any

import numpy as np
import torch

# Far above what honest checkpoints have: the largest ones hold some thousand tensors.
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_INSTRUCTIONS = 2_000_000
MAX_TENSORS = 100_000
MAX_DEPTH = 100
MAX_ENTRIES = 1_000_000
# Views may repeat what is stored (tied weights, expanded masks), within this bound.
MAX_REPETITION = 8
MAX_SMALL = 64 * 2**20

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")

_STORAGE_BYTES = {
    **{"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2},
    **{"Char": 1, "Byte": 1, "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8},
}
_STORAGES = {
    f"{module}.{name}Storage": size
    for name, size in _STORAGE_BYTES.items()
    for module in ("torch", "torch.cuda")
} | {"torch.storage.UntypedStorage": 1}
_UNUSABLE = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (device 'meta')",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
    **{
        f"torch.{name}Storage": "a quantised tensor"
        for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
    },
}
# classes of which the data are kept, see mmvitconv.weights.files
_DATA_CLASSES = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
)
_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
# what a file may call -> the method of _Reader that answers
_CALLS: dict[str, str] = {
    "torch._utils._rebuild_tensor": "rebuild_tensor",
    "torch._utils._rebuild_tensor_v2": "rebuild_tensor",
    "torch._utils._rebuild_tensor_v3": "rebuild_tensor_v3",
    "torch._utils._rebuild_parameter": "rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state": "rebuild_parameter",
    "torch._tensor._rebuild_from_type_v2": "rebuild_from_type",
    "torch.Size": "make_size",
    "torch.device": "make_device",
    "torch.serialization._get_layout": "make_layout",
    "collections.OrderedDict": "make_ordered_dict",
    "collections.Counter": "make_counter",
    "builtins.set": "make_set",
    "builtins.complex": "make_complex",
    "builtins.bytearray": "make_bytearray",
    "_codecs.encode": "make_bytes",
    "numpy.dtype": "make_dtype",
    **{
        f"numpy.{core}.multiarray.{name}": f"make_{kind}"
        for core in ("core", "_core")
        for name, kind in (("scalar", "scalar"), ("_reconstruct", "array"))
    },
}
_NUMBERS = re.compile(r"[<>|=]?([?bhilqBHILQefdFD]|[biufc](1|2|4|8|16)|[SU]\d{1,6})")


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
        elif head[:1] == b"\x80" and len(head) > 2:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _inspect_legacy(content)
        else:
            raise damaged(describe_content(head))


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
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    if head.startswith(b"\x89HDF"):
        return "it is an HDF5 file of another framework"
    if not head.strip(b"\0"):
        return "it begins with zeros, as an unfinished copy does"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "it is text"
    return ""


def _inspect_zip(file: IO[bytes]) -> None:
    size = os.fstat(file.fileno()).st_size
    _inspect_end(file, size)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        start = archive.start_dir
    by_name = {member.filename.lower(): member for member in members}  # as PyTorch compares
    if len(by_name) != len(members):
        raise forged("it has two members of the same name")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise forged(f"its member {member.filename[:60]!r} is compressed or encrypted")
        if member.file_size != member.compress_size or (
            member.header_offset + 30 + member.file_size > start
        ):
            raise forged(f"its member {member.filename[:60]!r} claims more bytes than there are")
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

    def check(storage: _Storage) -> None:
        member = by_name.get(f"{folder}/data/{storage.key}".lower())
        if member is None or member.file_size < storage.nbytes:
            raise forged(f"its tensor data {storage.key[:60]!r} are missing or too short")

    _check_content(_Reader(io.BytesIO(content), check, size).read(), len(content))


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
    needed: dict[str, int] = {}
    left = len(content)

    def check(storage: _Storage) -> None:
        nonlocal left
        needed[storage.key] = storage.nbytes
        left -= storage.nbytes
        if left < 0:
            raise damaged("its tensor data are longer than the file, so it was cut off or forged")

    def read() -> Any:
        return _Reader(content, check, len(content)).read()

    if read() != _LEGACY_MAGIC:
        raise damaged("")
    read()  # version
    read()  # byte order of the writer
    begin = content.tell()
    checkpoint = read()
    _check_content(checkpoint, content.tell() - begin)
    keys = read()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(needed):
        raise damaged("its list of tensors is broken")
    if content.tell() + sum(needed.values()) + 8 * len(needed) > len(content):
        raise damaged("it was cut off")


@dataclass(frozen=True)
class _Name:
    """A class, function, or constant that the file names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Tensor data: where they are, and how many bytes."""

    key: str
    kind: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * _STORAGES[self.kind]


class _Tensor:
    """Stands for a tensor."""


@dataclass(eq=False)
class _Data:
    """Stands for an object of which the data are kept."""

    parts: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class _Type:
    """Stands for a numpy dtype of numbers or text."""

    itemsize: int


@dataclass(eq=False)
class _Array:
    """Stands for a numpy array before and after its data are set."""


class _Reader:
    """Reads one pickle; every object in it that is no plain data is replaced by a stand-in.

    Args:
        file: At the beginning of the pickle; afterwards at its end.
        check_storage: Raises when the file does not have a storage's data.
        file_size: Bytes of the whole file.
    """

    def __init__(
        self,
        file: io.BytesIO | mmap.mmap,
        check_storage: Callable[[_Storage], None],
        file_size: int,
    ) -> None:
        self.file = file
        self.check_storage = check_storage
        self.storages: dict[str, _Storage] = {}
        self.tensors = 0
        # bytes that tensors and copies of plain data may take
        self.budget = MAX_REPETITION * file_size + MAX_SMALL

    def read(self) -> Any:
        """Walk through the pickle; the instructions are those that PyTorch's safe reader knows."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for number, (instruction, value, _) in enumerate(genops(self.file)):
            if number > MAX_INSTRUCTIONS:
                raise forged(f"it has more than {MAX_INSTRUCTIONS} objects")
            match instruction.name:
                case (
                    "BINUNICODE"
                    | "SHORT_BINSTRING"
                    | "BININT"
                    | "BININT1"
                    | "BININT2"
                    | ("LONG1" | "BINFLOAT")
                ):
                    stack.append(value)
                case "BINPUT" | "LONG_BINPUT":
                    memo[value] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[value])
                case "GLOBAL":
                    stack.append(self.name(value))
                case "REDUCE":
                    arguments = stack.pop()
                    stack[-1] = self.call(stack[-1], arguments)
                case "NEWOBJ":
                    arguments = stack.pop()
                    stack[-1] = self.create(stack[-1], arguments)
                case "BUILD":
                    state = stack.pop()
                    self.build(stack[-1], state)
                case "BINPERSID":
                    stack[-1] = self.storage(stack[-1])
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "SETITEM":
                    item, key = stack.pop(), stack.pop()
                    _mapping(stack[-1])[key] = item
                case "SETITEMS":
                    items, stack = stack, marks.pop()
                    if len(items) % 2:
                        raise damaged("")
                    _mapping(stack[-1]).update(zip(items[::2], items[1::2], strict=True))
                case "APPEND" | "APPENDS":
                    items = [stack.pop()]
                    if instruction.name == "APPENDS":
                        items, stack = [*stack, *items], marks.pop()
                    if type(stack[-1]) is not list:
                        raise damaged("")
                    stack[-1].extend(items)
                case "TUPLE":
                    items, stack = stack, marks.pop()
                    stack.append(tuple(items))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    length = int(instruction.name[-1])
                    stack[-length:] = [tuple(stack[-length:])]
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(instruction.name == "NEWTRUE")
                case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                    stack.append(
                        {"EMPTY_DICT": dict, "EMPTY_LIST": list}.get(instruction.name, tuple)()
                    )
                case "PROTO":
                    if value != 2:
                        raise unusable(f"a pickle of protocol {value}, but 2 is read")
                case "STOP":
                    return stack.pop()
                case other:
                    raise unusable(f"the pickle instruction {other}")
        raise damaged("")

    def name(self, words: str) -> Any:
        """A name's meaning, if it is on the list of data."""
        module, _, attribute = words.partition(" ")
        name = f"{module}.{attribute}".replace("__builtin__.", "builtins.", 1)
        if name in _UNUSABLE:
            raise unusable(_UNUSABLE[name])
        known = (
            name in _STORAGES
            or name in _TENSOR_CLASSES
            or name in _DATA_CLASSES
            or name == "numpy.ndarray"
            or name in _CALLS
            or (module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype))
        )
        if not known:
            raise code(name)
        return _Name(name)

    def call(self, function: Any, arguments: Any) -> Any:
        """The stand-in for what a function of the list returns."""
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise damaged("")
        self.spend(len(part) for part in arguments if isinstance(part, Collection))
        if function.name in _DATA_CLASSES:
            return self.create(function, arguments)
        if function.name not in _CALLS:
            raise code(function.name)
        return getattr(self, _CALLS[function.name])(*arguments)

    def create(self, kind: Any, arguments: Any) -> _Data:
        if not isinstance(kind, _Name) or kind.name not in _DATA_CLASSES:
            raise code(getattr(kind, "name", "a constructor"))
        return _Data([arguments])

    def build(self, target: Any, state: Any) -> None:
        """Check the state that an object is given."""
        match target:
            case OrderedDict():
                # what torch.nn.Module.state_dict() notes; anything else would hide dict's methods
                good = isinstance(state, dict) and all(
                    key == "_metadata" and isinstance(value, dict) for key, value in state.items()
                )
                target.__dict__.update(state if good else {})
            case _Data():
                good = isinstance(state, dict)
                self.spend([len(state)] if good else [])
                target.parts.append(state)
            case _Type():
                good = (
                    isinstance(state, tuple)
                    and 5 < len(state) < 9
                    and state[2:5] == (None, None, None)
                    and state[5] in (-1, target.itemsize)
                )
            case _Array():
                _, shape, kind, _, values = state
                good = (
                    isinstance(kind, _Type)
                    and isinstance(values, bytes)
                    and all(_is_count(length) for length in shape)
                    and math.prod(shape) * kind.itemsize == len(values)
                )
            case _:
                good = False
        if not good:
            raise damaged("")

    def spend(self, sizes: Iterable[int]) -> None:
        """Count memory that reading would take."""
        self.budget -= sum(sizes)
        if self.budget < 0:
            raise forged("its tensors claim far more memory than the file has bytes")

    def storage(self, given: Any) -> _Storage:
        kind, type_, key, _, count, *view = given
        if kind != "storage" or not isinstance(type_, _Name) or type_.name not in _STORAGES:
            raise damaged("")
        if not isinstance(key, str) or not _is_count(count):
            raise damaged("")
        storage = _Storage(key, type_.name, count)
        if key not in self.storages:
            self.check_storage(storage)
        if self.storages.setdefault(key, storage) != storage:
            raise forged(f"its tensor data {key[:60]!r} are described twice")
        if view and view[0] is not None:
            _, offset, length = view[0]
            if not (_is_count(offset) and _is_count(length) and offset + length <= count):
                raise forged(f"a view lies outside of its tensor data {key[:60]!r}")
            return _Storage(key, type_.name, length)
        return storage

    def tensor(
        self, storage: Any, itemsize: int, offset: Any, size: Any, stride: Any, hooks: Any = None
    ) -> _Tensor:
        """Check that a tensor lies inside its data, and count its bytes."""
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise forged(f"it has more than {MAX_TENSORS} tensors")
        good = (
            isinstance(size, tuple)
            and isinstance(stride, tuple)
            and len(size) == len(stride) <= 64
            and all(map(_is_count, (offset, *size, *stride)))
            and not hooks
        )
        if not good:
            raise damaged("")
        if 0 not in size:
            last = offset + sum(s * (n - 1) for n, s in zip(size, stride, strict=True))
            if (last + 1) * itemsize > storage.nbytes:
                raise forged(f"a tensor of shape {_show(size)} is longer than its data")
        self.spend([math.prod(size) * itemsize])
        return _Tensor()

    def rebuild_tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> _Tensor:
        return self.tensor(storage, _STORAGES[storage.kind], offset, size, stride, hooks)

    def rebuild_tensor_v3(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> _Tensor:
        itemsize = getattr(torch, dtype.name.removeprefix("torch.")).itemsize
        return self.tensor(storage, itemsize, offset, size, stride, hooks)

    def rebuild_parameter(
        self, data: Any, requires_grad: Any, hooks: Any, state: Any = None
    ) -> _Tensor:
        if not isinstance(data, _Tensor) or hooks:
            raise damaged("")
        _check_attributes(state)
        return data

    def rebuild_from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> _Tensor:
        if not isinstance(kind, _Name) or kind.name not in _TENSOR_CLASSES:
            raise damaged("")
        tensor = self.call(function, arguments)
        if not isinstance(tensor, _Tensor):
            raise damaged("")
        _check_attributes(state)
        return tensor

    def make_size(self, sizes: Any = ()) -> tuple:
        return tuple(sizes)

    def make_device(self, *names: Any) -> str:
        return str(torch.device(*names))

    def make_layout(self, name: str) -> str:
        return name

    def make_ordered_dict(self, *items: Any) -> OrderedDict:
        return OrderedDict(*items)

    def make_counter(self, *items: Any) -> Counter:
        return Counter(*items)

    def make_set(self, items: Any = ()) -> set:
        return set(items)

    def make_complex(self, *parts: Any) -> complex:
        return complex(*parts)

    def make_bytearray(self, text: Any = "", encoding: Any = "latin-1") -> bytes:
        # a number would be a length
        return text if isinstance(text, bytes) else self.make_bytes(text, encoding)

    def make_bytes(self, text: Any, encoding: Any) -> bytes:
        # other codecs may double the length, and the result may be encoded again
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise damaged("")
        return text.encode("latin-1")

    def make_dtype(self, name: Any, *flags: Any) -> _Type:
        name = name.decode() if isinstance(name, bytes) else name
        if name in ("O", "O8"):
            raise unusable("a numpy array of Python objects")
        if not isinstance(name, str) or _NUMBERS.fullmatch(name) is None:
            raise unusable("a numpy array that is not of numbers")
        return _Type(np.dtype(name).itemsize)

    def make_scalar(self, kind: Any, value: Any) -> _Data:
        if not isinstance(kind, _Type) or not isinstance(value, (bytes, str)):
            raise damaged("")
        if len(value) != kind.itemsize:
            raise damaged("")
        return _Data()

    def make_array(self, cls: Any, shape: Any, kind: Any) -> _Array:
        if cls != _Name("numpy.ndarray") or shape != (0,):
            raise damaged("")
        return _Array()


def _mapping(value: Any) -> dict:
    if type(value) not in (dict, OrderedDict, Counter):
        raise damaged("")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_attributes(state: Any) -> None:
    """Attributes that a tensor gets may not hide those it has."""
    for part in state if isinstance(state, tuple) else (state,):
        if part is None:
            continue
        if not isinstance(part, dict) or any(hasattr(torch.Tensor, str(key)) for key in part):
            raise damaged("")


def _show(size: tuple[int, ...]) -> str:
    text = str(size)
    return text if len(text) < 80 else f"{text[:80]}..."


def _check_content(checkpoint: Any, length: int) -> None:
    """Refuse what is nested too deep, or has too many entries when written out.

    An object may occur in many places; readers of the checkpoint go through all of them.
    """
    seen: dict[int, tuple[int, int]] = {}

    def measure(value: Any, level: int) -> tuple[int, int]:
        match value:
            case Mapping():
                children: Iterable[Any] = (
                    [*value.values(), *value.__dict__.values()]
                    if (isinstance(value, OrderedDict))
                    else value.values()
                )
            case list() | tuple() | set():
                children = value
            case _Data():
                children = value.parts
            case _:
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
