"""Checkpoint files as strangers send them: damaged, hostile, or of another model.

``UNREADABLE`` are refused by whatever reads them; ``UNFIT`` are well-formed and are refused by
whatever converts them or loads them into a model; ``OF_ANOTHER_MODEL`` only by the latter. Every
entry is name -> :class:`BrokenFile`.
"""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

Content = dict[str, Any]


@dataclass(frozen=True)
class BrokenFile:
    """A file that must be refused.

    Attributes:
        write: Writes it to a path, given the content of an honest checkpoint and the path of a
            marker that code in the file would create.
        says: Pattern of the sentence about it.
        suffix: Of its name.
        armed: Reading it without safety creates the marker.
    """

    write: Callable[[Path, Content, Path], None]
    says: str
    suffix: str = ".pth"
    armed: bool = False


UNREADABLE: dict[str, BrokenFile] = {}
UNFIT: dict[str, BrokenFile] = {}


# --- files that are cut or something else


def _bytes_of(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _from_bytes(
    name: str,
    change: Callable[[bytes], bytes],
    says: str,
    suffix: str = ".pth",
    legacy: bool = False,
) -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        path.write_bytes(change(_bytes_of(content, legacy)))

    UNREADABLE[name] = BrokenFile(write, says, suffix)


def _folder(path: Path, content: Content, marker: Path) -> None:
    path.mkdir()


def _pipe(path: Path, content: Content, marker: Path) -> None:
    os.mkfifo(path)


UNREADABLE["folder"] = BrokenFile(_folder, "is a folder")
UNREADABLE["pipe"] = BrokenFile(_pipe, "is no regular file")
UNREADABLE["missing"] = BrokenFile(lambda *_: None, "does not exist")

_DAMAGED = "is damaged or not a"
for _name, _content, _says in (
    ("empty", b"", "empty"),
    ("one_byte", b"P", _DAMAGED),
    ("zip_signature_only", b"PK\3\4", "cut off"),
    ("random_bytes", np.random.default_rng(0).bytes(5000), _DAMAGED),
    ("pickle_signature_only", b"\x80\x02", _DAMAGED),
    ("random_after_pickle_signature", b"\x80\x02" + bytes(range(256)) * 9, _DAMAGED),
    ("zeros", bytes(4096), "zeros"),
    ("html", b"\n<!DOCTYPE html><html><title>404</title></html>", "web page"),
    ("xml", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    ("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ("text", b"see the release page\n" * 20, "text"),
    ("json", b'{"state_dict": [1, 2]}', "JSON"),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    ("empty_zip", b"PK\5\6" + bytes(18), _DAMAGED),
):
    _from_bytes(_name, lambda _, content=_content: content, _says)
    if not _name.startswith(("zip_", "pickle_", "random_after")):
        _from_bytes(
            f"{_name}_safetensors", lambda _, content=_content: content, _DAMAGED, ".safetensors"
        )

for _part in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
    _from_bytes(f"cut_at_{_part}", lambda b, p=_part: b[: int(len(b) * p)], "cut off")
    _from_bytes(
        f"legacy_cut_at_{_part}", lambda b, p=_part: b[: int(len(b) * p)], _DAMAGED, legacy=True
    )
for _count in (1, 21, 22, 42, 98, 150):
    _from_bytes(f"cut_by_{_count}", lambda b, n=_count: b[:-n], _DAMAGED)
_from_bytes("legacy_cut_by_1", lambda b: b[:-1], "cut off", legacy=True)
_from_bytes("something_behind", lambda b: b + b"\n", "cut off")
_from_bytes("something_before", lambda b: b"PK\3\4" + b, "directory is broken")
_from_bytes("gzipped", gzip.compress, "unpack it")
_from_bytes("checkpoint_named_safetensors", lambda b: b, _DAMAGED, ".safetensors")
_from_bytes("safetensors_named_pth", lambda _: save_safetensors({"a": torch.ones(3)}), "name it")
_from_bytes("half_overwritten", lambda b: b[:100] + bytes(200) + b[300:], _DAMAGED)


def _tar(path: Path, content: Content, marker: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")


UNREADABLE["tar"] = BrokenFile(_tar, "tar archive")


def _tar_and_pickle(path: Path, content: Content, marker: Path) -> None:
    """A pickle that PyTorch would unpack as a tar archive first, with a link out of it."""
    entry = tarfile.TarInfo("\x80\x02storages")
    entry.type, entry.linkname = tarfile.LNKTYPE, "/etc/hostname"
    path.write_bytes(entry.tobuf(tarfile.USTAR_FORMAT, "latin-1") + bytes(1024))


UNREADABLE["tar_and_pickle"] = BrokenFile(_tar_and_pickle, "tar archive")


# --- zip archives


def write_zip(
    path: Path,
    pickled: bytes,
    members: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write an archive as torch.save does."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in {"version": b"3\n", **(members or {})}.items():
            archive.writestr(f"archive/{name}", data)


def _zip(name: str, write: Callable[[Path, Content], None], says: str, armed: bool = False) -> None:
    UNREADABLE[name] = BrokenFile(lambda path, content, _: write(path, content), says, armed=armed)


def _repacked(path: Path, content: Content) -> None:
    with zipfile.ZipFile(io.BytesIO(_bytes_of(content))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _change_directory(offset: int, value: bytes) -> Callable[[Path, Content], None]:
    """Write an archive and change a field of its directory's first entry."""

    def write(path: Path, content: Content) -> None:
        write_zip(path, pickle.dumps({}, protocol=2))
        data = bytearray(path.read_bytes())
        place = data.index(b"PK\1\2") + offset
        data[place : place + len(value)] = value
        path.write_bytes(data)

    return write


def _twice(path: Path, content: Content) -> None:
    write_zip(path, pickle.dumps({}, protocol=2), {"DATA.pkl": b"x"})


def _overlapping(path: Path, content: Content) -> None:
    write_zip(path, pickle.dumps({}, protocol=2), {f"data/{i}": bytes(4000) for i in range(4)})
    data = bytearray(path.read_bytes())
    starts, place = [], 0
    while (place := data.find(b"PK\1\2", place)) >= 0:
        starts.append(place)
        place += 4
    first = data[starts[2] + 42 : starts[2] + 46]
    for start in starts[3:]:
        data[start + 42 : start + 46] = first
    del data[8500:12500]
    end = len(data) - 22
    (offset,) = struct.unpack_from("<L", data, end + 16)
    struct.pack_into("<L", data, end + 16, offset - 4000)
    path.write_bytes(data)


def _many_members(path: Path, content: Content) -> None:
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, *[0] * 4, *[0] * 10)
    directory = entry * 400_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), 4, 0)
    path.write_bytes(b"PK\3\4" + directory + end)


_zip("zip_without_pickle", lambda p, _: _only(p, "archive/readme.txt"), "without data.pkl")
_zip("zip_of_something", lambda p, _: _only(p, "word/document.xml"), "without data.pkl")
_zip("compressed", _repacked, "compressed")
_zip(
    "bomb_in_pickle",
    lambda p, _: write_zip(p, bytes(64 * 2**20), compression=zipfile.ZIP_DEFLATED),
    "compressed",
)
_zip(
    "bomb_in_tensor",
    lambda p, _: write_zip(
        p, pickle.dumps({}), {"data/0": bytes(64 * 2**20)}, compression=zipfile.ZIP_BZIP2
    ),
    "compressed",
)
_zip("member_of_4_gb", _change_directory(20, b"\xfe\xff\xff\xff" * 2), "more bytes than there")
_zip("member_encrypted", _change_directory(8, b"\1"), "encrypted")
_zip("member_grows", _change_directory(24, b"\xfe\xff\xff\x7f"), "more bytes than there")
_zip("member_behind_the_end", _change_directory(42, b"\xfe\xff\xff\x7f"), "more bytes than there")
_zip("member_twice", _twice, "same name")
_zip("members_overlap", _overlapping, "overlap")
_zip("many_members", _many_members, "directory has")
_zip("checksum", _change_directory(16, b"abcd"), "checksum")


def _only(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "hello")


def _torchscript(path: Path, content: Content) -> None:
    write_zip(path, pickle.dumps({}, protocol=2), {"constants.pkl": b"", "code/__torch__.py": b""})


_zip("torchscript", _torchscript, "torch.jit.load")


# --- code in pickles


class Call:
    """Pickles into a call."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


class Built:
    """Pickles into an object and a state that it is given."""

    def __init__(self, function: Callable, arguments: tuple, state: Any) -> None:
        self.parts = function, arguments, state

    def __reduce__(self) -> tuple:
        return self.parts


def _gadget(
    name: str,
    call: Callable[[Path], Any],
    place: Callable[[Content, Any], Any] = lambda content, gadget: {**content, "extra": gadget},
    legacy: bool = False,
    protocol: int = 2,
    says: str = r"refused: reading it would run '[\w.]+'",
) -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        torch.save(
            place(content, call(marker)),
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=not legacy,
        )

    UNREADABLE[f"code_{name}"] = BrokenFile(write, says, armed=True)


def _system(marker: Path) -> Call:
    return Call(os.system, f"touch {marker}")


_gadget("system", _system)
_gadget("mkdir", lambda marker: Call(os.mkdir, str(marker)))
_gadget("eval", lambda marker: Call(eval, f"__import__('os').mkdir({str(marker)!r})"))
_gadget("exec", lambda marker: Call(exec, f"import os; os.mkdir({str(marker)!r})"))
_gadget("open", lambda marker: Call(open, str(marker), "w"))
_gadget("np_save", lambda marker: Call(np.savetxt, str(marker), [1.0]))
_gadget("torch_save", lambda marker: Call(torch.save, 1, str(marker)))
_gadget("path", lambda marker: Call(Path.touch, marker))
_gadget("legacy", _system, legacy=True)
_gadget("protocol_4", _system, protocol=4, says="protocol 4")
_gadget("in_tuple", _system, lambda c, g: {**c, "extra": (1, [{"a": (g,)}])})
_gadget("in_meta", _system, lambda c, g: {**c, "meta": {"epoch": 1, "iter": g}})
_gadget("in_optimizer", _system, lambda c, g: {**c, "optimizer": {"state": {0: {"step": g}}}})
_gadget("in_state_dict", _system, lambda c, g: {**c, "state_dict": {**c["state_dict"], "x": g}})
_gadget("as_whole", _system, lambda c, g: g)
_gadget(
    "in_numpy_objects",
    lambda marker: np.array([_system(marker)], dtype=object),
    says="(would run|Python objects)",
)
_gadget(
    "in_tensor_attribute",
    lambda marker: Call(
        torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (f"touch {marker}",), {}
    ),
)
_gadget(
    "in_namespace_state",
    lambda marker: Built(OrderedDict, (), {"_metadata": _system(marker)}),
)


def _code_before_legacy_content(path: Path, content: Content, marker: Path) -> None:
    head = [torch.serialization.MAGIC_NUMBER, 1001, _system(marker), {}, []]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in head))


UNREADABLE["code_in_legacy_system_info"] = BrokenFile(
    _code_before_legacy_content, "would run", armed=True
)


# --- sizes that the file does not have


class Storage:
    """Stands for tensor data that a file names, whether it has them or not."""

    def __init__(self, count: Any, key: Any = "0", kind: Any = torch.FloatStorage) -> None:
        self.id = ("storage", kind, key, "cpu", count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Storage) else None


def craft(value: Any) -> bytes:
    """A pickle with :class:`Storage`, :class:`Call` and :class:`Built` in it."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor(
    storage: Storage, size: Any, stride: Any = None, offset: Any = 0, hooks: Any = None
) -> Call:
    """A tensor of any claimed shape."""
    strides = [1]
    for length in size[:0:-1] if isinstance(size, tuple) else ():
        strides.insert(0, strides[0] * length)
    stride = tuple(strides[-len(size) :] if size else ()) if stride is None else stride
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, storage, offset, size, stride, False, hooks or OrderedDict())


def _crafted(name: str, value: Callable[[], Any], says: str, data: int = 40) -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        pickled = value()
        pickled = pickled if isinstance(pickled, bytes) else craft(pickled)
        write_zip(path, pickled, {"data/0": bytes(data)})

    UNREADABLE[name] = BrokenFile(write, says)


def _in_legacy(name: str, count: int, size: tuple, says: str) -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        value = {"a": tensor(Storage(count), size)}
        value["a"].arguments[0].id += (None,)
        parts = [torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}, value, ["0"]]
        path.write_bytes(b"".join(map(craft, parts)) + struct.pack("<q", 10) + bytes(40))

    UNREADABLE[name] = BrokenFile(write, says)


_FEW, _HUGE = Storage(10), 10**15
_crafted("stride_0_of_4_tb", lambda: {"a": tensor(_FEW, (10**12,), (0,))}, "far more memory")
_crafted("stride_0_in_6_d", lambda: {"a": tensor(_FEW, (1000,) * 6, (0,) * 6)}, "far more")
_crafted("data_shorter_than_said", lambda: {"a": tensor(Storage(11), (11,))}, "too short")
_crafted("data_of_petabytes", lambda: {"a": tensor(Storage(_HUGE), (10,))}, "too short")
_crafted("data_missing", lambda: {"a": tensor(Storage(10, "1"), (10,))}, "missing or too short")
_crafted("data_elsewhere", lambda: {"a": tensor(Storage(1, "../data.pkl"), (1,))}, "missing")
_crafted("data_of_wrong_type", lambda: {"a": tensor(Storage(10.5), (10,))}, _DAMAGED)
_crafted("data_negative", lambda: {"a": tensor(Storage(-1), (10,))}, _DAMAGED)
_crafted(
    "data_described_twice",
    lambda: [tensor(_FEW, (10,)), tensor(Storage(10, kind=torch.IntStorage), (10,))],
    "described twice",
)
_crafted("shape_longer_than_data", lambda: {"a": tensor(_FEW, (11,))}, "longer than its data")
_crafted("shape_of_petabytes", lambda: {"a": tensor(_FEW, (_HUGE,))}, "longer than its data")
_crafted("stride_beyond_data", lambda: {"a": tensor(_FEW, (2, 2), (9, 1))}, "longer than its")
_crafted("offset_beyond_data", lambda: {"a": tensor(_FEW, (2,), offset=9)}, "longer than its")
_crafted("shape_beyond_64_bits", lambda: {"a": tensor(_FEW, (2**70,), (1,))}, _DAMAGED)
_crafted("stride_negative", lambda: {"a": tensor(_FEW, (2,), (-1,), offset=5)}, _DAMAGED)
_crafted("shape_negative", lambda: {"a": tensor(_FEW, (-2,))}, _DAMAGED)
_crafted("shape_of_text", lambda: {"a": tensor(_FEW, "ab", (1, 1))}, _DAMAGED)
_crafted("shape_of_100_dimensions", lambda: {"a": tensor(_FEW, (1,) * 100)}, _DAMAGED)
_crafted("hooks", lambda: {"a": tensor(_FEW, (1,), hooks={0: 1})}, _DAMAGED)
_crafted(
    "many_views",
    lambda: [tensor(Storage(2**18), (2**18,)) for _ in range(2**10)],
    "far more memory",
    data=2**20,
)
_in_legacy("legacy_data_of_petabytes", _HUGE, (10,), "longer than the file")
_in_legacy("legacy_shape_of_petabytes", 10, (_HUGE,), "longer than its data")
_in_legacy("legacy_data_cut_off", 20, (20,), "(longer than the file|cut off)")

_crafted("bytearray_of_terabytes", lambda: {"a": Call(bytearray, 10**12)}, _DAMAGED)
_crafted("tensor_made_by_size", lambda: {"a": Call(torch.Tensor, 10**12)}, "refused")
_crafted("storage_made_by_size", lambda: {"a": Call(torch.FloatStorage, 10**12)}, "refused")
_crafted("untyped_storage", lambda: {"a": Call(torch.UntypedStorage, 10**12)}, "refused")
_crafted(
    "numpy_shape",
    lambda: {"a": Call(np.arange(2).__reduce__()[0], np.ndarray, (_HUGE,), b"b")},
    _DAMAGED,
)
_crafted(
    "numpy_state_too_short",
    lambda: {
        "a": Built(
            np.arange(2).__reduce__()[0],
            (np.ndarray, (0,), b"b"),
            (1, (_HUGE,), np.dtype("f8"), False, b"123"),
        )
    },
    _DAMAGED,
)
_crafted("numpy_objects", lambda: {"a": np.array([{}, 1], dtype=object)}, "Python objects")
_crafted("numpy_record", lambda: {"a": np.zeros(2, dtype="i4,f8")}, "not of numbers")
_crafted("numpy_void", lambda: {"a": Call(np.dtype, "V9999999", False, True)}, "not of numbers")


def _doubling() -> bytes:
    """Text that is encoded again and again, each time into twice as many characters."""
    import codecs

    value: Any = "x" * 1000
    for _ in range(40):
        value = Call(codecs.encode, value, "hex")
    return craft({"a": value})


def _laughs(depth: int) -> Any:
    value: Any = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def _nested(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def _cycle() -> dict:
    value: dict = {}
    value["itself"] = value
    return value


def _copies() -> bytes:
    """One list of a million, put into a new set each time."""
    many = b"]q\0(" + b"K\1" * 300_000 + b"e"
    copy = b"cbuiltins\nset\nq\1h\0\x85R"
    return b"\x80\x02](" + many + copy + b"h\1h\0\x85R" * 30_000 + b"e."


_crafted("text_that_doubles", _doubling, _DAMAGED)
_crafted("billion_laughs", lambda: {"meta": _laughs(60)}, "without end")
_crafted("nested_deep", lambda: _nested(90_000), "nested more than")
_crafted("nested_150", lambda: _nested(150), "nested more than")
_crafted("contains_itself", _cycle, "nested more than")
_crafted("copies_of_a_list", _copies, "far more memory")
_crafted("millions_of_objects", lambda: b"\x80\x02(" + b"]" * 2_100_000 + b"l.", "far more")


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _whole(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def _entry_of(value: bytes) -> bytes:
    """A pickle of a dict with one entry, a list that begins with what is given."""
    return b"\x80\x02}" + _text("a") + b"](" + value + b"es."


def _calls(function: bytes, arguments: bytes, count: int) -> bytes:
    """The same call again and again, with the same large argument."""
    name = b"c" + b"\n".join(function.rsplit(b".", 1)) + b"\nq\0"
    return _entry_of(name + arguments + b"q\1" + b"h\0h\1R" * count)


# all with one hash, so that a dict of them takes their square
_COLLIDING = {
    "whole_numbers": [_whole(number * (2**61 - 1)) for number in range(2000)],
    "tuples": [_whole(number * (2**61 - 1)) + b"\x85" for number in range(2000)],
    "complex_numbers": [
        b"cbuiltins\ncomplex\n" * (number == 1)
        + (b"q\0" if number == 1 else b"h\0")
        + b"".join(b"G" + struct.pack(">d", float(part)) for part in (-1000003 * number, number))
        + b"\x86R"
        for number in range(1, 2000)
    ],
}
for _name, _keys in _COLLIDING.items():
    for _kind, _value in (
        ("dict", b"\x80\x02}(" + b"".join(key + b"N" for key in _keys) + b"u."),
        ("dict_by_one", b"\x80\x02}" + b"".join(key + b"Ns" for key in _keys) + b"."),
        ("set", _entry_of(b"cbuiltins\nset\n](" + b"".join(_keys) + b"e\x85R")),
        ("counter", _entry_of(b"ccollections\nCounter\n](" + b"".join(_keys) + b"e\x85R")),
        (
            "ordered",
            _entry_of(
                b"ccollections\nOrderedDict\n]("
                + b"".join(key + b"N\x86" for key in _keys)
                + b"e\x85R"
            ),
        ),
    ):
        _crafted(f"{_kind}_of_colliding_{_name}", lambda v=_value: v, "neither names nor numbers")
_TWICE = b"N\x85q\0" + b"h\0h\0\x86q\0" * 60  # a tuple of two tuples of two tuples ...
_crafted(
    "key_of_tuples_in_tuples",
    lambda: _entry_of(_TWICE)[:-1] + b"h\0Ns.",
    "neither names nor numbers",
)
_crafted(
    "set_of_tuples_in_tuples",
    lambda: _entry_of(_TWICE + b"cbuiltins\nset\n]h\0a\x85R"),
    "neither names nor numbers",
)
_LONG = _text("x" * 1_000_000)
_MANY = b"}(" + b"".join(_text(str(number)) + b"N" for number in range(30_000)) + b"u"
for _name, _value in {
    "encodings": _calls(b"_codecs.encode", _LONG + _text("latin1") + b"\x86", 5000),
    "bytearrays": _calls(b"builtins.bytearray", _LONG + _text("latin1") + b"\x86", 5000),
    "counters": _calls(b"collections.Counter", _MANY + b"\x85", 5000),
    "paths": _calls(b"pathlib.PosixPath", _text("a/" * 200_000) + b"\x85", 5000),
    "sizes": _calls(b"torch.Size", b"(" + b"K\1" * 200_000 + b"t\x85", 5000),
    "states": _calls(b"argparse.Namespace", _MANY, 5000).replace(b"h\0h\1R", b"h\0)\x81h\1b"),
    "dicts": _calls(b"collections.OrderedDict", b")", 200_000),
    "memo": b"\x80\x02}" + b"".join(b"r" + struct.pack("<I", n) for n in range(1_500_000)) + b".",
    "references": _entry_of(b"Nq\0" + b"h\0" * 2_500_000),
    "names": _entry_of(b"cnumpy\ndtype\n" * 200_000),
    "text_scalars": _calls(
        b"numpy._core.multiarray.scalar",
        b"cnumpy\ndtype\n" + _text("U999999") + b"\x89\x88\x87R\x85",
        5000,
    ),
}.items():
    _crafted(f"many_{_name}", lambda v=_value: v, "far more memory")
_crafted("pickle_cut_off", lambda: craft({"a": 1})[:-3], _DAMAGED)
_crafted("pickle_empty", lambda: b"", _DAMAGED)
_crafted("pickle_of_nothing", lambda: b"\x80\x02.", _DAMAGED)
_crafted("pickle_text_of_gigabytes", lambda: b"\x80\x02X\xff\xff\xff\x7fabc.", _DAMAGED)
_crafted("pickle_memo_missing", lambda: b"\x80\x02h\x07.", _DAMAGED)
_crafted("pickle_memo_far", lambda: b"\x80\x02Nr\xff\xff\xff\x7f.", "holds a NoneType")
_crafted("pickle_unhashable_key", lambda: b"\x80\x02}]K\1s.", _DAMAGED)
_crafted("pickle_odd_items", lambda: b"\x80\x02}(K\1u.", _DAMAGED)
_crafted("pickle_extension", lambda: b"\x80\x02\x82\x01.", "instruction EXT1")
_crafted("name_with_spaces", lambda: b"\x80\x02ctorch\n_utils x\n.", "would run")
_crafted(
    "attribute_hides_method",
    lambda: {"a": Built(OrderedDict, (), {"items": 1})},
    _DAMAGED,
)
_crafted(
    "attribute_hides_tensor_method",
    lambda: {
        "a": Call(
            torch._tensor._rebuild_from_type_v2,
            torch._utils._rebuild_tensor_v2,
            torch.Tensor,
            (_FEW, 0, (2,), (1,), False, OrderedDict()),
            {"detach": 1},
        )
    },
    _DAMAGED,
)


class _Subclass(torch.Tensor):
    pass


def _holding(name: str, value: Callable[[], Any], says: str) -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        torch.save({**content, "state_dict": {**content["state_dict"], "x": value()}}, path)

    UNREADABLE[name] = BrokenFile(write, says)


_holding("sparse", lambda: torch.ones(2).to_sparse(), "a sparse tensor")
_holding("sparse_csr", lambda: torch.ones(2, 2).to_sparse_csr(), "a sparse tensor")
_holding(
    "quantised", lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "quantised"
)
_holding("meta_device", lambda: torch.ones(2, device="meta"), "without values")
_holding("subclass", lambda: torch.ones(2).as_subclass(_Subclass), "would run")
_holding("module", lambda: torch.nn.Linear(2, 2), "would run")


def _root(name: str, value: Callable[[Content], Any], says: str) -> None:
    UNREADABLE[name] = BrokenFile(lambda path, c, _: torch.save(value(c), path), says)


_root("list", lambda c: [c["state_dict"]], "holds a list")
_root("tensor", lambda c: torch.ones(3), "holds a Tensor")
_root("number", lambda c: 3, "holds a int")
_root("none", lambda c: None, "holds a NoneType")


# --- safetensors


def _safetensors(name: str, header: bytes, size: int | None = None, data: bytes = b"") -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        length = len(header) if size is None else size
        path.write_bytes(length.to_bytes(8, "little") + header + data)

    UNREADABLE[f"safetensors_{name}"] = BrokenFile(write, "safetensors file", ".safetensors")


def _entry(shape: str = "[2]", ends: str = "[0,8]", dtype: str = "F32") -> bytes:
    return f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{ends}}}}}'.encode()


_safetensors("header_of_exabytes", b"{}", 2**60)
_safetensors("header_of_90_mb", b"{}", 90 * 2**20)
_safetensors("header_negative", b"{}", 2**64 - 1)
_safetensors("header_no_json", b"hello!!!")
_safetensors("header_nested", b"[" * 100_000)
_safetensors("data_missing", _entry())
_safetensors("data_too_short", _entry(), data=bytes(7))
_safetensors("data_too_long", _entry(), data=bytes(9))
_safetensors("shape_too_large", _entry("[1000000000000000]"), data=bytes(8))
_safetensors("shape_overflows", _entry("[4294967296,4294967296,2]"), data=bytes(8))
_safetensors("shape_negative", _entry("[-2]"), data=bytes(8))
_safetensors("offsets_beyond", _entry("[2]", "[8,16]"), data=bytes(8))
_safetensors("offsets_swapped", _entry("[2]", "[8,0]"), data=bytes(8))
_safetensors("dtype_unknown", _entry(dtype="F17"), data=bytes(8))


# --- readable, but not this model's weights


def _unfit(name: str, change: Callable[[dict[str, Any]], Any], says: str) -> None:
    def write(path: Path, content: Content, marker: Path) -> None:
        torch.save({**content, "state_dict": change(dict(content["state_dict"]))}, path)

    UNFIT[name] = BrokenFile(write, says)


def _some_weight(state: dict[str, Any]) -> str:
    names = [k for k, v in state.items() if v.is_floating_point() and v.dim() > 1]
    return names[len(names) // 2]  # of the backbone, in every layout


def _with_value(value: float, dtype: torch.dtype = torch.float32) -> Callable:
    def change(state: dict[str, Any]) -> dict[str, Any]:
        key = _some_weight(state)
        weight = state[key].clone()
        weight.view(-1)[-1] = value
        return {**state, key: weight.to(dtype)}

    return change


def _with_weight(make: Callable[[torch.Tensor], Any]) -> Callable:
    def change(state: dict[str, Any]) -> dict[str, Any]:
        key = _some_weight(state)
        return {**state, key: make(state[key])}

    return change


_NOT_FINITE, _NEEDED = r"NaN or infinity in \d+ of \d+", "(is needed|not floating point)"
_unfit("nan", _with_value(float("nan")), _NOT_FINITE)
_unfit("infinity", _with_value(float("inf")), _NOT_FINITE)
_unfit("minus_infinity", _with_value(float("-inf")), _NOT_FINITE)
_unfit("nan_in_half", _with_value(float("nan"), torch.float16), _NOT_FINITE)
_unfit("overflow_in_half", _with_value(1e6, torch.float16), _NOT_FINITE)
_unfit("nan_in_bfloat16", _with_value(float("nan"), torch.bfloat16), _NOT_FINITE)
_unfit("nan_in_float8", _with_value(float("nan"), torch.float8_e4m3fn), _NOT_FINITE)
_unfit("nan_in_double", _with_value(float("nan"), torch.float64), _NOT_FINITE)
_unfit(
    "nan_everywhere",
    lambda s: {k: v * float("nan") if v.is_floating_point() else v for k, v in s.items()},
    _NOT_FINITE,
)
for _dtype in (torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64):
    _unfit(f"dtype_{str(_dtype)[6:]}", _with_weight(lambda w, d=_dtype: w.to(d)), _NEEDED)
_unfit("empty_state_dict", lambda s: {}, "empty")
_unfit("none_for_weight", _with_weight(lambda w: None), "not (tensors|a )")
_unfit("list_for_weight", _with_weight(lambda w: w.tolist()), "not (tensors|a )")
_unfit("state_dict_is_a_list", lambda s: list(s.values()), "not (tensors|a )")
_unfit("state_dict_is_none", lambda s: None, "not (tensors|a )")
_unfit("key_is_a_number", lambda s: {**s, 3: torch.ones(1)}, "3(,| is) no")
_unfit("key_is_none", lambda s: {**s, None: torch.ones(1)}, "None(,| is) no")
_unfit("key_is_a_tuple", lambda s: {**s, ("a", 1): torch.ones(1)}, "(is no name|not a str)")
_unfit("key_has_two_lines", lambda s: {**s, "a\nb": torch.ones(1)}, "(is no name|not a str)")
_unfit("key_has_escapes", lambda s: {**s, "\x1b[31m": torch.ones(1)}, "(is no name|not a str)")
_unfit("key_of_a_megabyte", lambda s: {**s, "a" * 2**20: torch.ones(1)}, "(is no name|not a str)")
_unfit(
    "weights_missing",
    lambda s: {k: v for i, (k, v) in enumerate(s.items()) if i % 7},
    "(missing|holds no state dict|do not go together)",
)


def _twice_as_wide(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v.repeat_interleave(2, 0) if v.dim() else v for k, v in state.items()}


# what takes a model to tell, so that a converter, which has none, may pass it
OF_ANOTHER_MODEL: dict[str, BrokenFile] = {}
for _name, _change, _says in (
    ("another_size", _twice_as_wide, "another size"),
    ("scalar_for_weight", _with_weight(lambda w: w.sum()), "another size"),
    ("no_dimension_left", _with_weight(lambda w: w[..., :0]), "another size"),
    ("another_model", lambda s: {"layer1.0.conv1.weight": torch.ones(3)}, "missing"),
):
    OF_ANOTHER_MODEL[_name] = BrokenFile(
        lambda path, content, _, change=_change: torch.save(
            {**content, "state_dict": change(dict(content["state_dict"]))}, path
        ),
        _says,
    )
