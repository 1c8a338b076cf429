"""Google Drive and Hugging Face's hub, each by the code of those who know it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmvitconv.weights.transfer import TIMEOUT, TransferError, is_there, text_of

__all__ = ["SUFFIXES", "choose_in_folder", "download_from_drive", "find_on_timm"]

SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


def choose_in_folder(identifier: str, name: str) -> str:
    """Return Google's id of the checkpoint in a folder: the one of a name, or the only one.

    Args:
        identifier: Google's id of the folder.
        name: The file's name, if that is known.

    Raises:
        TransferError: There is no such file, or the folder cannot be read.
    """
    with _drive() as gdown:
        files = gdown.download_folder(
            id=identifier, skip_download=True, quiet=True, timeout=TIMEOUT
        )
    named = [file for file in files if Path(file.path).name == name]
    chosen = named or [file for file in files if file.path.endswith(SUFFIXES)]
    if len(chosen) != 1:
        names = ", ".join(file.path for file in chosen or files)[:300]
        raise TransferError(f"holds {len(chosen)} checkpoints where one is needed ({names})")
    return chosen[0].id


def download_from_drive(identifier: str, target: Path) -> None:
    """Fetch a file of Google Drive by gdown, which knows the questions that Drive asks.

    Args:
        identifier: Google's id of the file.
        target: The file to write.

    Raises:
        TransferError: The file cannot be had.
    """
    with _drive() as gdown:
        gdown.download(
            id=identifier,
            output=str(target),
            quiet=not sys.stderr.isatty(),
            resume=True,
            timeout=TIMEOUT,
            retries=2,
        )


@contextmanager
def _drive() -> Iterator[Any]:
    """Give gdown, and turn its errors into ours."""
    try:
        import gdown
    except ImportError as error:
        raise TransferError(
            "is on Google Drive, which needs the package gdown (pip install gdown)"
        ) from error
    try:
        yield gdown
    except Exception as error:  # requests' and beautifulsoup's as well
        if "Max retries exceeded" in str(error):
            raise TransferError("cannot be reached") from error
        raise TransferError(f"is not given by Google Drive ({text_of(error)})") from error


def find_on_timm(name: str) -> str | Path:
    """Return where the weights of one of timm's models are.

    Args:
        name: As in timm's list, with or without the tag: ``'resnet50.a1_in1k'``.

    Returns:
        The file in Hugging Face's cache, fetched unless it was there; an address for the few models
        that are elsewhere.

    Raises:
        TransferError: There is no such model, or its weights cannot be had.
    """
    try:
        import timm
        from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    except ImportError as error:
        raise TransferError(f"needs the package {error.name} (pip install timm)") from error
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        near = get_close_matches(name, timm.list_pretrained(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise TransferError(f"is no model of timm with published weights{hint}") from error
    if not config.hf_hub_id:
        if not config.url:
            raise TransferError("has no published weights")
        return config.url
    names = [config.hf_hub_filename] if config.hf_hub_filename else TIMM_FILES
    try:
        cached = (try_to_load_from_cache(config.hf_hub_id, file) for file in names)
        found = next((file for file in cached if isinstance(file, str)), None)
        if found is None:  # ask first: the hub's code goes on for a minute without network
            file = next(file for file in names if is_there(hf_hub_url(config.hf_hub_id, file)))
            found = hf_hub_download(config.hf_hub_id, file)
    except StopIteration:
        raise TransferError(f"has none of {', '.join(names)} on the hub") from None
    except TransferError:
        raise
    except Exception as error:  # of the network, of the hub and of its cache
        raise TransferError(f"is not given by the hub ({text_of(error)})") from error
    return Path(found)
