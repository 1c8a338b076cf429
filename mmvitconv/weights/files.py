"""The one door through which checkpoint files enter: nothing in a file is ever executed."""

import argparse
import datetime
import os
import pathlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvitconv.errors import CheckpointError
from mmvitconv.weights.addresses import address_of
from mmvitconv.weights.downloads import fetch
from mmvitconv.weights.index import find_weights
from mmvitconv.weights.inspection import (
    RefusedError,
    check_content,
    describe_content,
    inspect_file,
)


class _Data:
    """Stands for a class or function that a file names: keeps the data, runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def _allowed() -> list[Any]:
    """What else than tensors and plain containers may occur in honest checkpoints: only data.

    timm's training scripts store the argparse namespace, mmengine's runner numpy scalars and
    HistoryBuffers, which pickle references to their own methods through ``getattr``: stand-ins
    replace both. Releases of Python and numpy have functions and classes in other modules.
    """
    core = np._core if hasattr(np, "_core") else np.core
    paths = [pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.Path]
    # a path of the other system is kept as a path that nothing can be opened by
    native = isinstance(pathlib.Path(), pathlib.PosixPath)
    aliases = {
        "PosixPath": pathlib.PosixPath if native else pathlib.PurePosixPath,
        "WindowsPath": pathlib.PureWindowsPath if native else pathlib.WindowsPath,
        **{kind.__name__: kind for kind in paths},
    }
    dates = ("datetime", "date", "time", "timedelta", "timezone")
    return [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"},
        *((getattr(datetime, name), f"datetime.{name}") for name in dates),
        *(
            (kind, f"{module}.{name}")
            for module in ("pathlib", "pathlib._local")
            for name, kind in aliases.items()
        ),
        *(
            (function, f"numpy.{module}.multiarray.{function.__name__}")
            for module in ("core", "_core")
            for function in (core.multiarray.scalar, core.multiarray._reconstruct)
        ),
        (_Data, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_Data, "builtins.getattr"),
        (_Data, "__builtin__.getattr"),
    ]


def allow_run_states() -> None:
    """Let any reader of this process take what MMEngine's runner writes into its checkpoints.

    With PyTorch from 2.6 on, MMEngine's own reader refuses the curves of its own log. They are read
    as inert stand-ins, of which MMEngine says that it leaves them out.
    """
    torch.serialization.add_safe_globals(_allowed())


def load_file(
    path: str | os.PathLike, map_location: Any = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint without ever running code that the file carries.

    Files are read by ``torch.load(weights_only=True)``, which takes a short list of data types and
    what :func:`torch.serialization.add_safe_globals` allows, and ``*.safetensors`` by safetensors.
    A file that needs more is refused. So is one that claims more data than it has: reading takes
    memory in proportion to the file's size.

    Args:
        path: A file, ``.pth``, ``.pth.tar``, ``.pt``, ``.bin`` or ``.safetensors``, or its address,
            which is fetched into a cache once per machine: ``mmvitconv://NAME`` of the index of
            published weights, ``timm://MODEL``, ``https://``, ``http://``, also of Google Drive.
        map_location: As in :func:`torch.load`.
        mmap: Leave tensors in the file until they are used, where its format allows that. The file
            must stay as it is meanwhile.

    Returns:
        The dict that the file holds.

    Raises:
        UserError: The index has no such name.
        CheckpointError: The file does not exist, cannot be fetched or opened, is damaged, is no
            checkpoint, or holds code.
    """
    address = address_of(path)
    path = _fetch(address) if address else _regular_file(path)
    note = (
        f" (fetched from {address}; delete it and its .json to fetch it again)" if address else ""
    )
    try:
        if path.suffix == ".safetensors":
            return {"state_dict": _load_safetensors(path, map_location)}
        inspect_file(path)
        with torch.serialization.safe_globals(_allowed()):
            checkpoint = torch.load(
                path,
                map_location=map_location,
                weights_only=True,
                mmap=mmap and zipfile.is_zipfile(path),
            )
        check_content(checkpoint, path.stat().st_size)
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
    scheme, _, name = address.partition("://")
    if scheme == "mmvitconv" and not (entry := find_weights(name)).loads:
        raise CheckpointError(
            f"{address} is a link only: how {entry.sources[0].address} names its weights is not "
            "known here, so no model can load them"
        )
    return fetch(address)


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
        sentence = f"is damaged or not a safetensors file ({reason}); fetch or save it again"
        raise RefusedError("other", sentence) from error


def _refusal(error: Exception) -> RefusedError:
    """Say why a file was not read; torch's own text would advise to switch safety off."""
    asked = re.search(r"GLOBAL (.+?) (?:was not|whose)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked is not None:
        return RefusedError("code", asked[1])
    if isinstance(error, OSError) and error.strerror:
        advice = "check that it is there and that you may read it"
        return RefusedError("other", f"cannot be read ({error.strerror}); {advice}")
    # other exceptions tell about the reader's insides
    telling = isinstance(error, RuntimeError) and str(error).strip()
    return RefusedError("damaged", _first_sentence(error) if telling else "")


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0][:120].rstrip(".") if lines else type(error).__name__
