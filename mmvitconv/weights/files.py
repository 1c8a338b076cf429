"""The one door through which checkpoint files enter: nothing in a file is ever executed."""

import argparse
import os
import pathlib
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier
from torch import Tensor

from mmvitconv.errors import CheckpointError
from mmvitconv.weights.inspection import (
    RefusedError,
    code,
    damaged,
    describe_content,
    inspect_file,
)


class _Inert:
    """Stands for a class or function that a file names: keeps the data, runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def _inert(module: str, name: str) -> type:
    """A stand-in that the weights-only unpickler finds under ``module.name``."""
    return type(name, (_Inert,), {"__module__": module, "__qualname__": name})


def _renamed(function: Callable, module: str) -> Callable:
    """The same function, found under the module that had it in another release."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__qualname__ = module, function.__name__
    call.__name__ = function.__name__
    return call


# What else than tensors and plain containers may occur in honest checkpoints. All of it is data:
# timm's training scripts store the argparse namespace, mmengine's runner numpy scalars and
# HistoryBuffers. A HistoryBuffer pickles references to its own methods through ``getattr``; both
# are replaced by stand-ins. numpy 2 renamed the module of its functions.
_NUMPY_CORE = np._core if hasattr(np, "_core") else np.core
_NUMPY_CALLS = (_NUMPY_CORE.multiarray.scalar, _NUMPY_CORE.multiarray._reconstruct)
_ALLOWED: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.ndarray,
    np.dtype,
    *(
        _renamed(function, f"numpy.{core}.multiarray")
        for core in ("core", "_core")
        for function in _NUMPY_CALLS
    ),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"},
    _inert("mmengine.logging.history_buffer", "HistoryBuffer"),
    _inert("builtins", "getattr"),
    _inert("__builtin__", "getattr"),
]


@contextmanager
def _allow_listed() -> Iterator[None]:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def load_file(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without ever running code that the file carries.

    Files are read by ``torch.load(weights_only=True)`` plus a short allow-list of data types, and
    ``*.safetensors`` by safetensors. A file that needs more is refused. So is one that claims more
    data than it has: reading takes memory in proportion to the file's size.

    Args:
        path: A file, ``.pth``, ``.pth.tar``, ``.pt``, ``.bin`` or ``.safetensors``, or its address
            (``http://`` or ``https://``), which is fetched into PyTorch's cache once per machine.
        map_location: As in :func:`torch.load`.

    Returns:
        The dict that the file holds.

    Raises:
        CheckpointError: The file does not exist, cannot be fetched or opened, is damaged, is no
            checkpoint, or holds code.
    """
    address = str(path) if str(path).startswith(("http://", "https://")) else ""
    path = _regular_file(_fetch(address) if address else path)
    note = f" (it was fetched from {address}; delete it to fetch it again)" if address else ""
    try:
        if path.suffix == ".safetensors":
            return {"state_dict": _load_safetensors(path, map_location)}
        inspect_file(path)
        with _allow_listed():
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes the reader stumble in every way there is
        refusal = error if isinstance(error, RefusedError) else _refusal(error)
        raise CheckpointError(f"checkpoint {str(path)!r} {refusal}{note}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"checkpoint {str(path)!r} holds a {type(checkpoint).__name__}, but a dict (a state "
            "dict, or a dict with one under 'state_dict' or 'model') is needed"
        )
    return checkpoint


def _regular_file(path: str | os.PathLike) -> Path:
    """The path, if a file is there: no folder, and no pipe or device, which may have no end."""
    try:
        path = Path(path).expanduser()
        if path.is_file():
            return path
        exists, folder = path.exists(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r} cannot be opened ({_first_sentence(error)}); give the path "
            "of a local file"
        ) from error
    what = "is a folder" if folder else "is no regular file" if exists else "does not exist"
    raise CheckpointError(f"checkpoint {str(path)!r} {what}; give the path of a local file")


def _fetch(address: str) -> Path:
    """Download into PyTorch's cache; in a distributed run one process of each machine does it."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(target), progress=os.isatty(2))
        except (OSError, HTTPException, ValueError) as error:
            raise CheckpointError(f"cannot download {address}: {error}") from error
    barrier()
    return target


def _load_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file as load_safetensors
    except ImportError as error:
        raise CheckpointError(
            f"reading {str(path)!r} needs the package safetensors; run: pip install safetensors"
        ) from error
    device = map_location if isinstance(map_location, (str, int)) else "cpu"
    try:
        return load_safetensors(path, device=device)
    except OSError:
        raise
    except Exception as error:
        with path.open("rb") as file:
            seen = describe_content(file.read(512))
        reason = seen or _first_sentence(error)
        raise RefusedError(
            f"is damaged or not a safetensors file ({reason}); fetch or save it again"
        ) from error


def _refusal(error: Exception) -> RefusedError:
    """Say why a file was not read; torch's own text would advise to switch safety off."""
    asked = re.search(r"GLOBAL ([\w.]+) (was not|whose)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked is not None:
        return code(asked[1])
    if isinstance(error, OSError) and error.strerror:
        return RefusedError(
            f"cannot be read ({error.strerror}); check that it is there and that you may read it"
        )
    # other exceptions tell about the reader's insides
    telling = isinstance(error, RuntimeError) and str(error).strip()
    return damaged(_first_sentence(error) if telling else "")


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0][:120].rstrip(".") if lines else type(error).__name__
