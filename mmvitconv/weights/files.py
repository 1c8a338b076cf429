"""The one door through which checkpoint files enter: nothing in a file is ever executed."""

import argparse
import os
import pathlib
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier
from torch import Tensor

from mmvitconv.errors import CheckpointError


class _Inert:
    """Stands for a class or function that a file names: keeps the data, runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def _inert(module: str, name: str) -> type:
    """A stand-in that the weights-only unpickler finds under ``module.name``."""
    return type(name, (_Inert,), {"__module__": module, "__qualname__": name})


# What else than tensors and plain containers may occur in honest checkpoints. All of it is data:
# timm's training scripts store the argparse namespace, mmengine's runner numpy scalars and
# HistoryBuffers. A HistoryBuffer pickles references to its own methods through ``getattr``; both
# are replaced by stand-ins.
_NUMPY_CORE = np._core if hasattr(np, "_core") else np.core
_ALLOWED: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.ndarray,
    np.dtype,
    _NUMPY_CORE.multiarray.scalar,
    _NUMPY_CORE.multiarray._reconstruct,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
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
    ``*.safetensors`` by safetensors. A file that needs more is refused.

    Args:
        path: A file, ``.pth``, ``.pth.tar``, ``.pt``, ``.bin`` or ``.safetensors``, or its address
            (``http://`` or ``https://``), which is fetched into PyTorch's cache once per machine.
        map_location: As in :func:`torch.load`.

    Returns:
        The dict that the file holds.

    Raises:
        CheckpointError: The file does not exist, cannot be fetched, is damaged, is no checkpoint,
            or holds code.
    """
    if str(path).startswith(("http://", "https://")):
        path = _fetch(str(path))
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {str(path)!r} does not exist; give the path of a local file"
        )
    if path.suffix == ".safetensors":
        return {"state_dict": _load_safetensors(path, map_location)}
    try:
        with _allow_listed():
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file makes the reader stumble in every way there is
        raise CheckpointError(_refusal(path, error)) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"checkpoint {str(path)!r} holds a {type(checkpoint).__name__}, but a dict (a state "
            "dict, or a dict with one under 'state_dict' or 'model') is needed"
        )
    return checkpoint


def _fetch(address: str) -> Path:
    """Download into PyTorch's cache; in a distributed run one process of each machine does it."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(target), progress=os.isatty(2))
        except OSError as error:
            raise CheckpointError(f"cannot download {address}: {error}") from error
    barrier()
    return target


def _load_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_safetensors
    except ImportError as error:
        raise CheckpointError(
            f"reading {str(path)!r} needs the package safetensors; run: pip install safetensors"
        ) from error
    try:
        device = map_location if isinstance(map_location, (str, int)) else "cpu"
        return load_safetensors(path, device=device)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r} is damaged or not a safetensors file "
            f"({_first_sentence(error)}); fetch or save it again"
        ) from error


def _refusal(path: Path, error: Exception) -> str:
    """Say why a file was not read; torch's own text would advise to switch safety off."""
    asked = re.search(r"GLOBAL ([\w.]+) (was not|whose)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked is not None:
        return (
            f"checkpoint {str(path)!r} was refused: reading it would run {asked[1]!r}; only "
            "tensors and plain data are read, so ask its author for a file with nothing but weights"
        )
    # other exceptions tell about the reader's insides
    telling = isinstance(error, (RuntimeError, OSError)) and str(error).strip()
    reason = f" ({_first_sentence(error)})" if telling else ""
    return (
        f"checkpoint {str(path)!r} is damaged or not a PyTorch checkpoint{reason}, so it was "
        "refused; fetch it again, or save the state dict alone with torch.save"
    )


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0][:120].rstrip(".") if lines else type(error).__name__
