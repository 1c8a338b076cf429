"""The check of a config at the start of a training or test: fast, and remembered.

What was found is kept with the times and sizes of all files that were looked at, so that a second
start with the same config and data costs a listing of the folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config

from mmvitconv.checks.annotations import Report
from mmvitconv.datasets.layout import as_items, dataset_paths, is_remote, leaf_datasets
from mmvitconv.errors import UserError
from mmvitconv.resources import cache_home
from mmvitconv.version import __version__

__all__ = ["check_before_run", "complain"]

SECONDS = 5.0  # for opening the files of a data set, after the first few
MOST_FILES = 400_000  # of which times and sizes are compared; of more, those of the folders
KEPT = 200  # results in the cache
NOT_ABOUT_DATA = ("work_dir", "load_from", "resume", "log_level")


def check_before_run(cfg: Config, splits: Sequence[str]) -> Report:
    """Check a config and its data, as ``mmvitconv check`` does, but open only some of the files.

    Args:
        cfg: The config, after :func:`mmvitconv.datasets.layout.prepare_config`.
        splits: Those that will be used.

    Returns:
        The report, without errors.

    Raises:
        UserError: There are errors; each is one line.
    """
    begin = time.monotonic()
    key = _key(cfg, splits)
    file = cache_home() / "checks" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(file.read_text(encoding="utf-8"))
        report = Report([tuple(row) for row in content["rows"]], {}, content["warnings"])
        report.notes = [*content["notes"], "nothing has changed since the last check"]
        report.advice = content["advice"]
        return report
    from mmvitconv.checks.config import check_config

    report = check_config(cfg, splits, seconds=SECONDS)
    complain(report)
    report.notes.append(f"checked in {time.monotonic() - begin:.0f} s")
    with suppress(OSError, ValueError):  # a home that cannot be written costs the time only
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {name: getattr(report, name) for name in ("rows", "warnings", "notes", "advice")}
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, file)
        old = sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in old[:-KEPT]:
            path.unlink(missing_ok=True)
    return report


def complain(report: Report) -> None:
    """Raise what a report has for errors.

    Args:
        report: Of a check.

    Raises:
        UserError: With one line for each kind of error.
    """
    sentences = report.sentences("errors")
    how = "'mmvitconv check CONFIG' looks at everything; --no-check starts nevertheless"
    if len(sentences) == 1:
        raise UserError(f"{sentences[0]} ({how})")
    if sentences:
        lines = "".join(f"\n  error: {sentence}" for sentence in sentences)
        raise UserError(f"{len(sentences)} mistakes in the config or its data ({how}):{lines}")


def _key(cfg: Config, splits: Sequence[str]) -> str:
    """Return a hash of a config and of the times and sizes of its files."""
    settings = {key: value for key, value in cfg.items() if key not in NOT_ABOUT_DATA}
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(settings))
    own = sorted(Path(__file__).parent.glob("*.py"))  # of another state of the code, too
    result = hashlib.sha256(f"{__version__}\n{sorted(splits)}\n{text}\n{cfg.text}".encode())
    paths: dict[str, None] = {}
    for split in splits:
        for _, item in leaf_datasets(cfg.get(f"{split}_dataloader"), ""):
            paths.update(dict.fromkeys(dataset_paths(item, cfg.get("default_scope") or "")))
        for _, item in as_items(cfg.get(f"{split}_evaluator"), ""):
            if isinstance(item.get("ann_file"), str) and not is_remote(item["ann_file"], item):
                paths[item["ann_file"]] = None
    for line in _states([*map(str, own), *sorted(paths)]):
        result.update(line.encode(errors="surrogatepass"))
    return result.hexdigest()[:32]


def _states(paths: Sequence[str]) -> Iterator[str]:
    """Yield a line with time and size of each file and of those in folders."""
    count = 0
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            yield f"{path} missing\n"
            continue
        yield f"{path} {state.st_mtime_ns} {state.st_size}\n"
        for folder, folders, names in os.walk(path):
            folders.sort()
            yield f"{folder} {os.stat(folder).st_mtime_ns} {len(names)}\n"
            for name in sorted(names):
                count += 1
                if count > MOST_FILES:
                    break
                with suppress(OSError):
                    found = os.stat(os.path.join(folder, name))
                    yield f"{name} {found.st_mtime_ns} {found.st_size}\n"
