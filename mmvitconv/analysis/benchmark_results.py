"""What a benchmark measured: rows, their files, and the table on the screen."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mmvitconv.errors import UserError
from mmvitconv.version import __version__

__all__ = [
    "Row",
    "best_variants",
    "device_name",
    "environment",
    "groups_of",
    "read_results",
    "table_of",
    "write_results",
]

# What must be the same for two rows to be of the same measurement.
KEY = ("model", "shape", "batch", "dtype", "layout", "mode", "pass_")
SETTING = KEY[1:]


@dataclass(frozen=True)
class Row:
    """One measurement; a column of the file each, ``pass_`` without its underscore.

    Args:
        model: Name of the backbone.
        params: Its parameters.
        macs: Its multiply-adds for one image of this size.
        shape: ``HEIGHTxWIDTH``.
        batch: Images at a time.
        dtype: ``fp32``, or the type of autocast.
        layout: ``nchw`` or ``nhwc``.
        mode: ``eager`` or ``compiled``.
        pass_: ``inference`` or ``training``.
        median_ms: Median milliseconds of a call.
        iqr_ms: Between their quartiles.
        min_ms: Of the fastest call.
        images_per_s: Batch by median.
        peak_mb: MiB needed beyond images, weights and the optimizer's state; None if not known.
        compile_s: Seconds of the first call of what was compiled.
        rounds: Calls that count.
        threads: Of the CPU.
        device: Name of the CPU or GPU.
        torch: Its version.
        date: When it was measured (UTC).
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

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured, and how."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def setting(self) -> tuple[Any, ...]:
        """The key without the model."""
        return tuple(getattr(self, name) for name in SETTING)

    @property
    def group(self) -> str:
        """What took turns with it."""
        return f"{self.pass_} {self.shape} batch {self.batch}"

    @property
    def label(self) -> str:
        """The key for people."""
        return f"{self.model} {self.dtype} {self.layout} {self.mode}, {self.group}"


COLUMNS = {field.name.removesuffix("_"): field for field in fields(Row)}
_DIGITS = {
    "median_ms": 4,
    "iqr_ms": 4,
    "min_ms": 4,
    "images_per_s": 4,
    "peak_mb": 3,
    "compile_s": 3,
}


def write_results(
    folder: Path,
    rows: Sequence[Row],
    about: Mapping[str, Any],
    left_out: Sequence[str],
) -> None:
    """Write ``results.csv``, and ``results.json`` with what the CSV cannot hold.

    Args:
        folder: Made if it does not exist.
        rows: The measurements.
        about: From :func:`environment`.
        left_out: What was not measured, and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [_record(row) for row in rows]
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    content = {"environment": about, "left_out": list(left_out), "rows": records}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def _record(row: Row) -> dict[str, Any]:
    record = {name.removesuffix("_"): value for name, value in asdict(row).items()}
    for name, digits in _DIGITS.items():
        if record[name] is not None:
            record[name] = round(record[name], digits)
    return record


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
        if path.suffix == ".json":
            records = json.loads(text)["rows"]
        else:
            records = list(csv.DictReader(text.splitlines()))
        rows = [_row(record) for record in records]
    except (csv.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} is no result of 'mmvitconv benchmark' ({_describe(error)}); give the "
            "results.csv or results.json that --out wrote"
        ) from error
    if not rows:
        raise UserError(f"{str(path)!r} holds no measurements; give another file")
    return rows


def _describe(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _row(record: Mapping[str, Any]) -> Row:
    values = {}
    for name, field in COLUMNS.items():
        value = record[name]
        if value in (None, ""):
            if "None" not in str(field.type):
                raise ValueError(f"an entry of the column {name!r} is empty")
            values[field.name] = None
        else:
            kind = {"str": str, "int": int}.get(str(field.type), float)
            values[field.name] = kind(value)
    if not min(values["median_ms"], values["min_ms"]) > 0 or values["rounds"] < 1:
        raise ValueError("a time or number of rounds that is not positive")
    return Row(**values)


def groups_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that took turns with each other."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def best_variants(rows: Iterable[Row]) -> list[Row]:
    """The fastest row of each model and group."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.model, row.group
        if key not in best or row.median_ms < best[key].median_ms:
            best[key] = row
    return list(best.values())


def table_of(rows: Sequence[Row], calibration: str) -> Table:
    """The table of a group, the fastest models first.

    Args:
        rows: Of one group.
        calibration: The model that others are compared with, in the same type, layout and mode.
    """
    base = {row.setting: row.median_ms for row in rows if row.model == calibration}
    best = {row.model: row for row in best_variants(rows)}
    table = Table(title=f"{rows[0].group}; *: the model's fastest variant")
    for name in ("model", "dtype", "layout", "mode"):
        table.add_column(name, no_wrap=True)
    numbers = ("params M", "MACs G", "ms", "IQR", "images/s", "peak MiB", f"x {calibration}")
    for name in numbers:
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
            f"{row.median_ms / base[row.setting]:.2f}" if row.setting in base else "-",
            style="bold" if is_best else None,
        )
    return table


def device_name(device: str) -> str:
    """What the device calls itself."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """What a reader must know about the machine and the software.

    Args:
        device: ``'cpu'`` or ``'cuda'``.
    """
    about: dict[str, Any] = {
        "mmvitconv": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": device_name("cpu"),
        "cores": os.cpu_count(),
        "models": "backbones with the features of all stages, random weights, no heads",
        "dtypes": "fp32: plain; bf16 and fp16: autocast, float32 weights",
        "multiply-adds": "mmvitconv.analysis.count_complexity",
    }
    try:
        import timm
    except ImportError:
        pass
    else:
        about["timm"] = timm.__version__
    if hasattr(os, "getloadavg"):
        about["load average at the start"] = [round(load, 2) for load in os.getloadavg()]
    if device == "cuda":
        about |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn.benchmark": True,
            "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
            "TF32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
        }
    return about
