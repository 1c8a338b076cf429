"""Where configs, tools and ``model-index.yml`` are, and configs found by name.

An editable installation has them in the repository, a wheel in ``mmvitconv/.mim``, where
OpenMMLab's ``mim`` looks for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from mmvitconv.errors import UserError

__all__ = [
    "CONFIG_SUFFIXES",
    "HOME_VARIABLE",
    "SHIPPED",
    "cache_home",
    "find_base",
    "find_config",
    "is_config",
    "list_configs",
    "resource_root",
]

SHIPPED = "mmvitconv::"  # in front of a shipped config that is the base of another one
CONFIG_SUFFIXES = (".py", ".json", ".yaml", ".yml")

HOME_VARIABLE = "MMVITCONV_HOME"

_PACKAGE = Path(__file__).resolve().parent
_INDEX = "model-index.yml"
_CONFIGS = "configs"
# What OpenMMLab's names say and ours do not: GPUs x batch, the schedule that is the default, the
# image's size, that the weights are somebody else's, the neck that every detector has.
_UNSAID = re.compile(r"\d+xb\d+|1x|\d+(k|e)|\d+x\d+|ms|mstrain|amp|3rdparty|fpn")
_SAME = {"in1k": "imagenet", "imagenet1k": "imagenet", "ade": "ade20k", "coco2017": "coco"} | {
    f"voc{year}{more}": "voc" for year in ("12", "2012") for more in ("", "aug")
}


def cache_home() -> Path:
    """Return the folder of the cache: MMVITCONV_HOME, else XDG_CACHE_HOME/mmvitconv or ~/.cache."""
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(os.path.expanduser(given)).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base), "mmvitconv").absolute()


def resource_root() -> Path:
    """Return the folder that holds ``configs``, ``tools`` and ``model-index.yml``.

    Raises:
        UserError: The installation has none.
    """
    for folder in (_PACKAGE / ".mim", _PACKAGE.parent):
        if (folder / _INDEX).is_file() and (folder / _CONFIGS).is_dir():
            return folder
    raise UserError(
        f"the configs of mmvitconv are neither in {_PACKAGE / '.mim'} nor in {_PACKAGE.parent}: "
        "install a wheel made by 'pip wheel .', or the repository by 'pip install -e .'"
    )


def list_configs() -> dict[str, Path]:
    """Return all shipped configs but those in ``_base_``.

    Returns:
        Path by name, ``'configs/fcvit/fcvit_s12_imagenet.py'``, which is legal in any folder.

    Raises:
        UserError: The installation has no configs.
    """
    root = resource_root()
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted((root / _CONFIGS).glob("*/*.py"))
        if path.parent.name != "_base_"
    }


def find_config(name: str | Path) -> Path:
    """Find a config file.

    Args:
        name: Path of a file, or a shipped config: ``'fcvit_s12_imagenet'``,
            ``'fcvit/fcvit_s12_imagenet'`` or ``'configs/fcvit/fcvit_s12_imagenet'``, each with or
            without ``.py``, or as OpenMMLab would call it, ``'fcvit-s12_8xb128_in1k'``. A file
            that exists always wins.

    Returns:
        The path of a file.

    Raises:
        UserError: There is neither, with similar names.
    """
    path = Path(name)
    return path if path.is_file() else _find_name(str(name))


def find_base(base: str, filename: str | Path) -> Path:
    """Find what a config is based on.

    Args:
        base: A path relative to the config, or a shipped config after ``mmvitconv::``, by name or
            by its place below ``configs``: ``'mmvitconv::_base_/default_runtime.py'``.
        filename: The config.

    Returns:
        A path, of a file if it is of a shipped config.

    Raises:
        UserError: No config is shipped by that name, with similar names.
    """
    if not base.startswith(SHIPPED):
        return Path(filename).parent / base
    name = base.removeprefix(SHIPPED)
    path = resource_root() / _CONFIGS / name
    return path if path.is_file() else _find_name(name)


def _find_name(name: str) -> Path:
    """Find a shipped config by name."""
    wanted = Path(name).as_posix().removesuffix(".py")
    shipped = list_configs()
    found = _find_shipped(wanted, shipped)
    if len(found) == 1:
        return shipped[found[0]]
    near = found or _similar(Path(name).as_posix(), shipped)
    hint = f"did you mean {' or '.join(near)}?" if near else "'mmvitconv list' shows architectures"
    raise UserError(f"there is no config file {name!r}, nor is one shipped by that name; {hint}")


def is_config(name: str) -> bool:
    """Tell whether a name means a config: by its suffix, or as a shipped config is called."""
    path = Path(name)
    return path.suffix in CONFIG_SUFFIXES or bool(_find_shipped(path.as_posix(), list_configs()))


def _find_shipped(name: str, shipped: Iterable[str]) -> list[str]:
    """Return the shipped configs of a name: ours, else OpenMMLab's way to write it."""
    found = [key for key in shipped if name in _names(key)]
    if found or "/" in name or not name:
        return found
    return [key for key in shipped if _plain(Path(key).stem) == _plain(name)]


def _plain(name: str) -> str:
    """Return what our names and OpenMMLab's for the same config have in common."""
    method, *words = re.split(r"[-_]", name.lower())
    kept = [_SAME.get(word, word) for word in words if not _UNSAID.fullmatch(word)]
    return "".join([method, *kept])


def _names(key: str) -> set[str]:
    """Return the names that a shipped config goes by."""
    full = key.removesuffix(".py")
    return {full, full.removeprefix(f"{_CONFIGS}/"), full.rpartition("/")[2]}


def _similar(wanted: str, shipped: dict[str, Path]) -> list[str]:
    """Return up to three configs, of the working directory or shipped, with a name like this."""
    own = (path for path in sorted(Path(_CONFIGS).rglob("*.py")) if "_base_" not in path.parts)
    files = {Path(key).stem: key for key in (*shipped, *(path.as_posix() for path in own))}
    stem = Path(wanted).name.removesuffix(".py")
    return [files[name] for name in get_close_matches(stem, files, n=3, cutoff=0.6)]
