"""What a benchmark measured: rows, their files, the table on the screen, and two runs compared."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mmvitconv.errors import UserError
from mmvitconv.version import __version__

__all__ = [
    "Change",
    "Comparison",
    "Row",
    "best_variants",
    "compare",
    "device_name",
    "environment",
    "groups_of",
    "keep_confirmed",
    "read_results",
    "table_of",
    "write_results",
]

# What must be the same for two rows to be of the same measurement.
KEY = ("model", "shape", "batch", "dtype", "layout", "mode", "pass_")
# Standard error of a median over the distance between quartiles, times the root of the number of
# values, for a normal distribution: 1.2533 / 1.3490. Noise is two of them.
_MEDIAN_ERROR, _DEVIATIONS = 0.929, 2.0


@dataclass(frozen=True)
class Row:
    """One measurement; a column of the file each, ``pass_`` without its underscore.

    docs/benchmark.md says what the columns mean. ``peak_mb`` and ``compile_s`` may be unknown.
    """

    model: str
    params: int
    macs: int
    shape: str
    batch: int
    dtype: str
    layout: str
    mode: str
    pass_: str
    median_ms: float
    iqr_ms: float
    min_ms: float
    images_per_s: float
    peak_mb: float | None
    compile_s: float | None
    rounds: int
    threads: int
    device: str
    torch: str
    date: str
    folded: int = 0  # 0 or 1; older files do not say

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured, and how; all but the first are the setting."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def group(self) -> str:
        """What took turns with it."""
        return f"{self.pass_} {self.shape} batch {self.batch}"

    @property
    def label(self) -> str:
        """The key for people."""
        return f"{self.model} {self.dtype} {self.layout} {self.mode}, {self.group}"


COLUMNS = {field.name.removesuffix("_"): field for field in fields(Row)}


def write_results(
    folder: Path, rows: Sequence[Row], about: Mapping[str, Any], left_out: Sequence[str]
) -> None:
    """Write ``results.csv``, and ``results.json`` with what the CSV cannot hold.

    Args:
        folder: Made if it does not exist.
        rows: The measurements.
        about: From :func:`environment`.
        left_out: What was not measured, and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {
            name.removesuffix("_"): round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(row).items()
        }
        for row in rows
    ]
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    content = {"environment": about, "left_out": list(left_out), "rows": records}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def read_results(path: Path) -> list[Row]:
    """Read the rows that :func:`write_results` wrote.

    Args:
        path: ``results.csv`` or ``results.json``.

    Raises:
        UserError: There is no such file, or it is of another format.
    """
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}; give a results.csv of 'benchmark --out'")
    try:
        text = path.read_text(encoding="utf-8")
        is_json = path.suffix == ".json"
        records = json.loads(text)["rows"] if is_json else csv.DictReader(text.splitlines())
        rows = [_row(record) for record in records]
    except (csv.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{str(path)!r} is not a result of 'mmvitconv benchmark' ({reason}); give the "
            "results.csv or results.json that --out wrote"
        ) from error
    if not rows:
        raise UserError(f"{str(path)!r} holds no measurements; give another file")
    return rows


def _row(record: Mapping[str, Any]) -> Row:
    values = {}
    for name, column in COLUMNS.items():
        if column.default is not MISSING and name not in record:
            continue
        value = record[name]
        if value not in (None, ""):
            value = {"str": str, "int": int}.get(str(column.type), float)(value)
        elif "None" in str(column.type):
            value = None
        else:
            raise ValueError(f"an entry of the column {name!r} is empty")
        values[column.name] = value
    if not min(values["median_ms"], values["min_ms"]) > 0 or values["rounds"] < 1:
        raise ValueError("a time or number of rounds that is not positive")
    return Row(**values)


def groups_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows that took turns with each other."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def best_variants(rows: Iterable[Row]) -> list[Row]:
    """Return the fastest row of each model and group, in the order of the models."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        best[row.model, row.group] = min(
            best.get((row.model, row.group), row), row, key=lambda row: row.median_ms
        )
    return list(best.values())


def table_of(rows: Sequence[Row], calibration: str) -> Table:
    """Return the table of a group, the fastest models first.

    Args:
        rows: Of one group.
        calibration: The model that others are compared with, in the same type, layout and mode.
    """
    base = {row.key[1:]: row.median_ms for row in rows if row.model == calibration}
    best = {row.model: row for row in best_variants(rows)}
    table = Table(title=f"{rows[0].group}; *: the model's fastest variant")
    for name in ("model", "dtype", "layout", "mode"):
        table.add_column(name, no_wrap=True)
    for name in ("params M", "MACs G", "ms", "IQR", "images/s", "peak MiB", f"x {calibration}"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: (best[row.model].median_ms, row.median_ms)):
        is_best = row is best[row.model]
        table.add_row(
            f"{row.model}{' *' if is_best else ''}",
            row.dtype,
            row.layout,
            row.mode,
            f"{row.params / 1e6:.1f}",
            f"{row.macs / 1e9:.2f}",
            f"{row.median_ms:.2f}",
            f"{row.iqr_ms:.2f}",
            f"{row.images_per_s:.1f}",
            "-" if row.peak_mb is None else f"{row.peak_mb:.0f}",
            f"{row.median_ms / base[row.key[1:]]:.2f}" if row.key[1:] in base else "-",
            style="bold" if is_best else None,
        )
    return table


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """Return what a reader must know about the machine and the software.

    Args:
        device: ``'cpu'`` or ``'cuda'``.
    """
    about: dict[str, Any] = {
        "mmvitconv": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "system": platform.platform(),
        "cpu": device_name("cpu"),
        "cores": os.cpu_count(),
    }
    if hasattr(os, "getloadavg"):
        about["load average at the start"] = [round(load, 2) for load in os.getloadavg()]
    if device == "cuda":
        about |= {"gpu": device_name("cuda"), "cudnn": torch.backends.cudnn.version()}
        about["TF32 in convolutions"] = torch.backends.cudnn.allow_tf32
        about["TF32 in matrix products"] = torch.backends.cuda.matmul.allow_tf32
    return about


# Two runs. Milliseconds say nothing where a machine is shared or replaced: what is compared is the
# ratio of a model to a calibration model that took turns with it in the same run.


@dataclass(frozen=True)
class Change:
    """How a row changed.

    Args:
        row: Of the run now.
        before: Its median time over the calibration model's in the earlier run.
        now: The same in this run.
        fastest: By what factor that ratio of the fastest calls grew, which load disturbs least.
        noise: Factor that the spread of both runs alone explains, at least 1.
    """

    row: Row
    before: float
    now: float
    fastest: float
    noise: float

    @property
    def factor(self) -> float:
        """Above 1: slower than it was."""
        return self.now / self.before

    def is_slower(self, tolerance: float) -> bool:
        """Return whether neither the spread of the times nor a busy machine explains its factor."""
        return self.factor > max(tolerance, self.noise) and self.fastest > tolerance


@dataclass(frozen=True)
class Comparison:
    """What two runs say together.

    Args:
        changes: Of all rows that both have.
        missing: Rows of the earlier run that this one lacks.
        new: Rows that only this one has.
        warnings: Why the comparison may be weak.
    """

    changes: tuple[Change, ...]
    missing: tuple[Row, ...]
    new: tuple[Row, ...]
    warnings: tuple[str, ...]

    def slower(self, tolerance: float) -> list[Change]:
        """Return what became slower, the worst first."""
        found = [change for change in self.changes if change.is_slower(tolerance)]
        return sorted(found, key=lambda change: -change.factor)

    def unclear(self, tolerance: float) -> list[Change]:
        """Return what took longer, but not by more than its times vary."""
        seeming = [change for change in self.changes if change.factor > tolerance]
        return [change for change in seeming if not change.is_slower(tolerance)]


def compare(before: Sequence[Row], now: Sequence[Row], calibration: str) -> Comparison:
    """Compare two runs by the ratio to a model that is in both.

    Args:
        before: The earlier run.
        now: This run.
        calibration: Name of the model; its own rows are not compared.

    Returns:
        Ratios and what could not be compared.

    Raises:
        UserError: No row can be compared.
    """
    old, new = ({row.key: row for row in rows} for rows in (before, now))
    changes, uncalibrated = [], []
    for key, row in new.items():
        base = (calibration, *key[1:])
        if key not in old or row.model == calibration:
            continue
        if base not in old or base not in new:
            uncalibrated.append(row.label)
            continue
        four = row, new[base], old[key], old[base]
        medians, least = ([getattr(one, name) for one in four] for name in ("median_ms", "min_ms"))
        fastest = least[0] / least[1] / (least[2] / least[3])
        ratios = medians[2] / medians[3], medians[0] / medians[1]
        changes.append(Change(row, *ratios, fastest, _noise(four)))
    if not changes:
        raise UserError(
            f"no measurement of this run is in the earlier one together with {calibration!r}; "
            "measure the same models, shapes, batches, dtypes, layouts and modes"
        )
    warnings = []
    for name in ("device", "torch", "threads", "folded"):
        values = [sorted({str(getattr(row, name)) for row in rows}) for rows in (before, now)]
        if values[0] != values[1]:
            was, is_now = map(", ".join, values)
            warnings.append(f"{name} was {was}, now {is_now}; ratios may differ for that alone")
    if uncalibrated:
        labels = "; ".join(uncalibrated)
        warnings.append(f"not compared, without {calibration} beside them: {labels}")
    missing = tuple(row for key, row in old.items() if key not in new)
    only_new = tuple(row for key, row in new.items() if key not in old)
    return Comparison(tuple(changes), missing, only_new, tuple(warnings))


def _noise(rows: Iterable[Row]) -> float:
    """Return the factor by which the ratio of ratios of these medians varies by chance."""
    errors = (_MEDIAN_ERROR * row.iqr_ms / row.median_ms / math.sqrt(row.rounds) for row in rows)
    return 1 + _DEVIATIONS * math.sqrt(sum(error**2 for error in errors))


def keep_confirmed(first: Comparison, again: Sequence[Comparison]) -> Comparison:
    """Return the comparison with the medians of what was measured several times.

    Load makes a model slower, but load on the calibration model makes its ratio lower. So neither
    the lowest ratio counts nor the highest: one disturbed run of three changes nothing.

    Args:
        first: Of all rows.
        again: Of the rows that were measured again, one for each time.
    """
    changes = []
    for change in first.changes:
        runs = [
            change,
            *(one for run in again for one in run.changes if one.row.key == change.row.key),
        ]
        medians = {
            name: statistics.median(getattr(one, name) for one in runs)
            for name in ("now", "fastest", "noise")
        }
        changes.append(replace(change, **medians))
    return replace(first, changes=tuple(changes))
