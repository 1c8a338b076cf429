"""What a benchmark measured: rows, their files, the table on the screen, and two runs compared."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.utils.dl_utils import collect_env
from rich.table import Column, Table

from mmvitconv.datasets.jsons import read_json
from mmvitconv.errors import UserError
from mmvitconv.version import __version__

__all__ = ["Row", "compare", "environment", "read_results", "table_of", "write_results"]

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
    """Write ``results.csv``, and ``results.json`` with the environment and what was left out."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in zip(COLUMNS, asdict(row).values(), strict=True)
        }
        for row in rows
    ]
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    content = {"environment": about, "left_out": list(left_out), "rows": records}
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def read_results(path: Path) -> list[Row]:
    """Read the rows of a ``results.csv`` or ``results.json``.

    Raises:
        UserError: There is no such file, or it is of another format.
    """
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}; give a results.csv of 'benchmark --out'")
    try:
        if path.suffix == ".json":
            records = read_json(path)["rows"]
        else:
            records = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
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
        value = record[name] if column.default is MISSING else record.get(name, column.default)
        is_empty = value in (None, "")
        if is_empty and "None" not in str(column.type):
            raise ValueError(f"an entry of the column {name!r} is empty")
        kind = {"str": str, "int": int}.get(str(column.type), float)
        values[column.name] = None if is_empty else kind(value)
    if not min(values["median_ms"], values["min_ms"]) > 0 or values["rounds"] < 1:
        raise ValueError("a time or number of rounds that is not positive")
    return Row(**values)


def best_variants(rows: Sequence[Row]) -> list[Row]:
    """Return the fastest row of each model in a group, in the order of the models."""
    models = dict.fromkeys(row.model for row in rows)
    rows = sorted(rows, key=lambda row: row.median_ms)
    return [next(row for row in rows if row.model == model) for model in models]


def table_of(rows: Sequence[Row], calibration: str) -> Table:
    """Return the table of a group, the fastest models first, with their ratios to a model."""
    base = {row.key[1:]: row.median_ms for row in rows if row.model == calibration}
    best = {row.model: row for row in best_variants(rows)}
    names = ("model", "dtype", "layout", "mode")
    numbers = ("params M", "MACs G", "ms", "IQR", "images/s", "peak MiB", f"x {calibration}")
    columns = [Column(name, no_wrap=True) for name in names]
    columns += [Column(name, no_wrap=True, justify="right") for name in numbers]
    table = Table(*columns, title=f"{rows[0].group}; *: the model's fastest variant")
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
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return what a reader must know about the machine and the software."""
    return collect_env() | {
        "mmvitconv": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "cpu": device_name("cpu"),
        "cores": os.cpu_count(),
        "load average at the start": [round(load, 2) for load in os.getloadavg()],
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
    }


def plot_results(
    rows: Sequence[Row], folder: Path, accuracies: Mapping[str, float] | None = None
) -> list[Path]:
    """Draw one picture for each size, batch and pass, with a panel for each type and mode.

    A model is a point at its faster layout; the other layout is a pale point beside it; models
    of timm are hollow.

    Args:
        rows: The measurements.
        folder: Where to write ``plot-PASS-SHAPE-bBATCH.png``.
        accuracies: Published top-1 in per cent by model, for the vertical axis instead of
            multiply-adds; models without one are left out, which the picture says.
    """
    from matplotlib import colormaps

    from mmvitconv.analysis.pictures import new_figure, save_figure

    paths = []
    models = list(dict.fromkeys(row.model for row in rows))
    of_macs = accuracies is None
    heights = {row.model: row.macs / 1e9 for row in rows} if of_macs else accuracies
    label = "multiply-adds of an image, 10^9" if of_macs else "published ImageNet-1k top-1, %"
    for group in dict.fromkeys(row.group for row in rows if row.model in heights):
        shown = [row for row in rows if row.group == group and row.model in heights]
        first = shown[0]
        title = [
            group,
            f"{first.device}, {first.threads} threads, torch {first.torch}",
            f"backbones without heads; median of {first.rounds} rounds",
        ]
        if hidden := sorted({row.model for row in rows if row.group == group} - heights.keys()):
            title.append(f"without a published accuracy: {', '.join(hidden)}")
        panels = list(dict.fromkeys((row.dtype, row.mode) for row in shown))
        figure = new_figure((5.5 * len(panels) + 2.5, 6), *title)
        points = {}
        for axis, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            inside = [row for row in shown if (row.dtype, row.mode) == panel]
            best = best_variants(inside)
            for row in inside:
                points[f"{row.model} {row.layout}"] = axis.plot(
                    row.median_ms,
                    heights[row.model],
                    "o" if row.layout == "nchw" else "s",
                    alpha=1.0 if row in best else 0.35,
                    color=colormaps["tab20"](models.index(row.model) % 20),
                    fillstyle="full" if ":" in row.model else "none",
                )[0]
            axis.set(title=" ".join(panel), xlabel="milliseconds (median)", xscale="log")
            axis.set(ylabel=label, yscale="log" if of_macs else "linear")
            axis.grid(alpha=0.3, which="both")
        figure.legend(points.values(), points, loc="outside right upper", fontsize=9,
                      title="hollow: timm; pale: slower layout", title_fontsize=8)  # fmt: skip
        path = folder / f"plot-{first.pass_}-{first.shape}-b{first.batch}.png"
        paths.append(save_figure(figure, path))
    return paths


# Two runs. Milliseconds say nothing where a machine is shared or replaced: what is compared is the
# ratio of a model to a calibration model that took turns with it in the same run.


class Change(NamedTuple):
    """How a row changed."""

    row: Row  # of the run now
    before: float  # its median time over the calibration model's in the earlier run
    now: float  # the same in this run
    fastest: float  # by what that ratio of the fastest calls grew, which load disturbs least
    noise: float  # factor that the spread of both runs alone explains, at least 1

    @property
    def factor(self) -> float:
        """Above 1: slower than it was."""
        return self.now / self.before

    def verdict(self, tolerance: float) -> str:
        """Return ``'slower'``, ``'unclear'`` where noise or load may be the reason, or ``''``."""
        if self.factor <= tolerance:
            return ""
        return "slower" if self.factor > self.noise and self.fastest > tolerance else "unclear"


class Comparison(NamedTuple):
    """What two runs say together."""

    changes: list[Change]  # of all rows that both have, the worst first
    missing: list[Row]  # rows of the earlier run that this one lacks
    new: list[Row]  # rows that only this one has
    warnings: list[str]  # why the comparison may be weak


def compare(
    before: Sequence[Row], now: Sequence[Row], calibration: str, *again: Sequence[Row]
) -> Comparison:
    """Compare two runs by the ratio to a model that is in both.

    Load makes a model slower, but load on the calibration model makes its ratio lower. So what was
    measured again counts with its median: one disturbed run of three changes nothing.

    Args:
        before: The earlier run.
        now: This run.
        calibration: Name of the model; its own rows are not compared.
        *again: Rows of this run that were measured once more.

    Raises:
        UserError: No row can be compared.
    """
    old, *runs = ({row.key: row for row in rows} for rows in (before, now, *again))
    changes, uncalibrated = [], []
    for key, row in runs[0].items():
        base = (calibration, *key[1:])
        if key not in old or row.model == calibration:
            continue
        if base not in old or base not in runs[0]:
            uncalibrated.append(row.label)
            continue
        four = [(old[key], old[base], run[key], run[base]) for run in runs if key in run]
        was, *ratios = map(statistics.median, zip(*map(_ratios, four), strict=True))
        changes.append(Change(row, was, *ratios))
    if not changes:
        raise UserError(
            f"no measurement of this run is in the earlier one together with {calibration!r}; "
            "measure the same models, shapes, batches, dtypes, layouts and modes"
        )
    warnings = []
    for name in ("device", "torch", "threads", "folded"):
        was, is_now = (sorted({str(getattr(row, name)) for row in rows}) for rows in (before, now))
        if was != is_now:
            change = f"{name} was {', '.join(was)}, now {', '.join(is_now)}"
            warnings.append(f"{change}; ratios may differ for that alone")
    if uncalibrated:
        labels = "; ".join(uncalibrated)
        warnings.append(f"not compared, without {calibration} beside them: {labels}")
    missing = [row for key, row in old.items() if key not in runs[0]]
    new = [row for key, row in runs[0].items() if key not in old]
    changes.sort(key=lambda change: -change.factor)
    return Comparison(changes, missing, new, warnings)


def _ratios(rows: Sequence[Row]) -> tuple[float, float, float, float]:
    """Return what :class:`Change` holds of a row and its calibration, before and now."""
    was, was_base, now, base = rows
    fastest = now.min_ms / base.min_ms / (was.min_ms / was_base.min_ms)
    errors = [_MEDIAN_ERROR * row.iqr_ms / row.median_ms / math.sqrt(row.rounds) for row in rows]
    noise = 1 + _DEVIATIONS * math.hypot(*errors)
    return was.median_ms / was_base.median_ms, now.median_ms / base.median_ms, fastest, noise
