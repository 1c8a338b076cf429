"""The cache of compiled graphs: a folder for each module, by what decides about its graphs."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import is_dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmvitconv.ops.machine import machine_name
from mmvitconv.resources import cache_home
from mmvitconv.version import __version__

__all__ = ["add_tensor", "digest", "folder_of"]

MOST_KEPT = 8 * 2**30  # bytes that stay


def digest(module: nn.Module, precision: str) -> str:
    """Return a name for graphs of a module: by weights, settings, versions and machine."""
    found = hashlib.sha256(f"{_versions()} {precision}".encode())
    for name, part in module.named_modules():
        settings = {
            key: repr(value)
            for key, value in vars(part).items()
            if not key.startswith("_") and (_is_plain(value) or is_dataclass(value))
        }
        kind = type(part)
        found.update(f"{name} {kind.__module__}.{kind.__qualname__} {settings}".encode())
        for key, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                found.update(key.encode())
                add_tensor(found, tensor)
    return found.hexdigest()[:32]


def add_tensor(found: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor to what a digest is of."""
    found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    found.update(memoryview(raw.numpy()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))


@lru_cache(maxsize=1)
def _versions() -> str:
    """Return what besides the model decides about a compiled graph."""
    packages = []
    for package in (
        "torch",
        "openvino",
        "onnxruntime",
        "nncf",
        "mmdet",
        "mmsegmentation",
        "mmpretrain",
    ):
        with suppress(PackageNotFoundError):
            packages.append(f"{package} {version(package)}")
    code = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for folder in ("ops", "models", "runtime"):
        for file in sorted((root / folder).rglob("*.py")):
            code.update(file.read_bytes())
    return f"{__version__} {code.hexdigest()} {packages} {platform.machine()} {machine_name()}"


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="mmvitconv-graphs-")


def _forget(folder: Path) -> None:
    """Remove the graphs that were not used for longest: each change of weights leaves some."""
    kept = [path for path in folder.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]
    total = 0
    for path in sorted(kept, key=os.path.getmtime, reverse=True):
        with suppress(FileNotFoundError):  # another process removes some, too
            total += sum(file.stat().st_size for file in path.iterdir())
        if total > MOST_KEPT:
            shutil.rmtree(path, ignore_errors=True)


def folder_of(key: str) -> Path:
    """Return the folder of a key's graphs; one of this process where the cache is not writable."""
    folder = cache_home() / "graphs" / key
    try:
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.utime(folder)  # the last use
            if is_new:
                _forget(folder.parent)
            return folder
    except OSError:
        pass
    folder = Path(_scratch().name, key)
    folder.mkdir(exist_ok=True)
    return folder
