"""Whether something became slower, on machines whose speed is not the same twice.

Milliseconds of two runs say nothing where a machine is shared or replaced. What is compared is the
ratio of a model to a calibration model that took turns with it in the same run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmvitconv.analysis.benchmark_results import Row
from mmvitconv.errors import UserError

__all__ = ["Change", "Comparison", "check_calibration", "compare", "keep_confirmed"]

# Standard error of a median over the distance between quartiles, times the root of the number of
# values, for a normal distribution: 1.2533 / 1.3490.
_MEDIAN_ERROR = 0.929
_DEVIATIONS = 2.0


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

    def seems_slower(self, tolerance: float) -> bool:
        """Whether it took longer than the tolerance allows, for whatever reason."""
        return self.factor > tolerance

    def is_slower(self, tolerance: float) -> bool:
        """Whether neither the spread of the times nor a busy machine explains that it seems so."""
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
        """What became slower, the worst first."""
        found = [change for change in self.changes if change.is_slower(tolerance)]
        return sorted(found, key=lambda change: -change.factor)

    def unclear(self, tolerance: float) -> list[Change]:
        """What took longer, but not by more than its times vary."""
        return [
            change
            for change in self.changes
            if change.seems_slower(tolerance) and not change.is_slower(tolerance)
        ]


def check_calibration(rows: Sequence[Row], calibration: str, path: Path) -> None:
    """Raise unless an earlier run has the calibration model.

    Raises:
        UserError: It has not.
    """
    models = sorted({row.model for row in rows})
    if calibration not in models:
        raise UserError(
            f"{str(path)!r} has no row of the calibration model {calibration!r}; give "
            f"--calibration one of {', '.join(models)}"
        )


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
    old_base, new_base = (
        {row.setting: row for row in rows if row.model == calibration} for rows in (before, now)
    )
    changes, uncalibrated = [], []
    for key, row in new.items():
        if key not in old or row.model == calibration:
            continue
        if row.setting not in old_base or row.setting not in new_base:
            uncalibrated.append(row.label)
            continue
        four = row, new_base[row.setting], old[key], old_base[row.setting]
        pairs = four[:2], four[2:]
        median_now, median_before = (own.median_ms / base.median_ms for own, base in pairs)
        least_now, least_before = (own.min_ms / base.min_ms for own, base in pairs)
        change = Change(row, median_before, median_now, least_now / least_before, _noise(four))
        changes.append(change)
    if not changes:
        raise UserError(
            f"no measurement of this run is in the earlier one together with {calibration!r}; "
            "measure the same models, shapes, batches, dtypes, layouts and modes"
        )
    warnings = list(_differences(before, now))
    if uncalibrated:
        warnings.append(
            f"not compared, without {calibration} beside them: {'; '.join(uncalibrated)}"
        )
    return Comparison(
        tuple(changes),
        tuple(row for key, row in old.items() if key not in new),
        tuple(row for key, row in new.items() if key not in old),
        tuple(warnings),
    )


def keep_confirmed(first: Comparison, again: Sequence[Comparison]) -> Comparison:
    """The comparison with the medians of what was measured several times.

    Load makes a model slower, but load on the calibration model makes its ratio lower. So neither
    the lowest ratio counts nor the highest: one disturbed run of three changes nothing.

    Args:
        first: Of all rows.
        again: Of the rows that were measured again, one for each time.
    """
    repeated = [{change.row.key: change for change in run.changes} for run in again]
    changes = []
    for change in first.changes:
        key = change.row.key
        measured = [change, *(run[key] for run in repeated if key in run)]
        medians = {
            name: statistics.median(getattr(each, name) for each in measured)
            for name in ("now", "fastest", "noise")
        }
        changes.append(replace(change, **medians))
    return replace(first, changes=tuple(changes))


def _noise(rows: Iterable[Row]) -> float:
    """Factor by which the ratio of ratios of these medians varies by chance."""
    errors = (_MEDIAN_ERROR * row.iqr_ms / row.median_ms / math.sqrt(row.rounds) for row in rows)
    return 1 + _DEVIATIONS * math.sqrt(sum(error**2 for error in errors))


def _differences(before: Sequence[Row], now: Sequence[Row]) -> Iterable[str]:
    for name, text in (("device", "device"), ("torch", "torch"), ("threads", "number of threads")):
        old, new = (sorted({str(getattr(row, name)) for row in rows}) for rows in (before, now))
        if old != new:
            yield (
                f"another {text} than in the earlier run: {', '.join(new)} instead of "
                f"{', '.join(old)}; ratios may differ for that alone"
            )
