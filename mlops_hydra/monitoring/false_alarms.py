"""How often a check of this size reports a column although nothing has drifted: measured, not promised.

Both sides are drawn anew from the reference, again and again, and go through the whole procedure. Columns are drawn
independently of each other; columns that move together raise fewer alarms.
"""

from dataclasses import replace

import numpy as np

from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.data.values import IntArray
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.profile import CategoryCounts, ColumnProfile, NumericCounts
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.window import Window

NUM_CHECKS = 200


def false_alarm_rate(
    reference: Reference, window: Window, rules: MonitoringConfig, *, num_checks: int = NUM_CHECKS, seed: int = 0
) -> float:
    """The share of checks that report some column; `window` says how many rows there are."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(num_checks):
        drawn = Window(reference.profile)
        drawn.num_rows = window.num_rows
        for column in reference.profile.features:
            drawn.features[column.name] = _drawn(column, window.num_rows, rng)
        again = [_redrawn(column, reference.profile.num_rows, rng) for column in reference.profile.features]
        profile = replace(reference.profile, features=tuple(again), outputs=(), losses={})
        alarms += judge(Reference(profile), drawn, rules).verdict == "drifted"
    return alarms / num_checks


def _redrawn(column: ColumnProfile, num_rows: int, rng: np.random.Generator) -> ColumnProfile:
    return replace(column, counts=_drawn(column, num_rows, rng))  # type: ignore[arg-type]


def _drawn(column: ColumnProfile, num_rows: int, rng: np.random.Generator) -> NumericCounts | CategoryCounts:
    """Counts of so many rows that are as those of the column."""
    counts = column.counts
    kinds = np.array([*counts.cells, counts.num_missing, counts.num_unreadable], dtype=np.int64)
    total = int(kinds.sum())
    if not total:
        return type(counts)(counts.cells.copy())
    drawn: IntArray = rng.multinomial(num_rows, kinds / total)
    cells, missing, unreadable = drawn[:-2], int(drawn[-2]), int(drawn[-1])
    if isinstance(counts, CategoryCounts):
        return CategoryCounts(cells, num_missing=missing, num_unreadable=unreadable)
    weekdays = counts.weekdays
    if weekdays is not None and weekdays.sum():
        weekdays = rng.multinomial(int(cells.sum()), weekdays / weekdays.sum())
    beyond = cells if len(cells) == 1 else cells[[0, -1]]  # of a reference, only what is infinite is out of its range
    return NumericCounts(cells, missing, unreadable, int(beyond.sum()), weekdays=weekdays)
