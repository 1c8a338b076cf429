"""Lists of files that leave out what is none, where MMEngine's would end the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from mmengine import fileio
from mmengine.logging import print_log

from mmvitconv.errors import printable

__all__ = ["LocalBackend", "use_careful_listing", "what_is_there"]


def what_is_there(path: str | os.PathLike) -> str:
    """Say what is in the place of a file; empty where nothing is.

    Args:
        path: Where no regular file is.
    """
    if os.path.isdir(path):
        return "a folder"
    if os.path.exists(path):
        return "a pipe or device"
    return "a link that points nowhere" if os.path.islink(path) else ""


class LocalBackend(fileio.LocalBackend):
    """MMEngine's reader of local files; links to nowhere, loops, pipes and devices are left out."""

    def list_dir_or_file(
        self,
        dir_path: str | os.PathLike,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """List what is in a folder, as MMEngine does.

        Args:
            dir_path: The folder.
            list_dir: Whether to list folders.
            list_file: Whether to list files whose names do not begin with a dot.
            suffix: Of the files to list; None for all.
            recursive: Whether to look into the folders inside.

        Yields:
            Paths below the folder; each that is left out is named in the log.
        """
        if suffix is not None and (list_dir or not isinstance(suffix, (str, tuple))):
            raise TypeError("suffix is a text or tuple of texts and goes with list_dir=False")

        def list_folder(folder: str, above: tuple[str, ...]) -> Iterator[str]:
            with os.scandir(folder) as entries:
                found = [entry.path for entry in entries]
            for path in found:
                name, hidden = os.path.relpath(path, dir_path), os.path.basename(path)[0] == "."
                if os.path.isdir(path):
                    real = os.path.realpath(path)
                    if real in above:
                        _leave_out(path, "a link to a folder around it")
                        continue
                    if list_dir:
                        yield name
                    if recursive:
                        yield from list_folder(path, (*above, real))
                elif os.path.isfile(path):
                    if list_file and not hidden and (suffix is None or name.endswith(suffix)):
                        yield name
                elif list_file and not hidden:
                    _leave_out(path, what_is_there(path))

        folder = os.fspath(dir_path)
        return list_folder(folder, (os.path.realpath(folder),))


def _leave_out(path: str, what: str) -> None:
    text = printable(f"bad data: left out: {path}: {what}", 1200)
    print_log(text, "current", logging.WARNING)


def use_careful_listing() -> None:
    """Let MMEngine, and so all datasets of OpenMMLab, list local folders in this way."""
    fileio.register_backend("local", LocalBackend, force=True, prefixes="")
    fileio.io.backend_instances.clear()  # those that exist already list in MMEngine's way
