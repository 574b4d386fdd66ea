"""Why a test came out as it did, in words: only where it is no news that nothing happened.

Not here: tables and sentences about the whole check (`wording.py`).
"""

import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import numpy as np

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.monitoring.counts import CategoryCounts, Counts, NumericCounts
from mlops_hydra.monitoring.kolmogorov import detectable, shift_of
from mlops_hydra.monitoring.profile import CategoryProfile, NumericProfile
from mlops_hydra.monitoring.result import Verdict
from mlops_hydra.monitoring.tested import SPREADS, Tested
from mlops_hydra.monitoring.window import Window

_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WHAT: Final = {"numeric": "a number", "date": "a date", "boolean": "true or false", "categorical": "a plain value"}
_SHOWN: Final = 3
_MOST_ROWS: Final = 10**9


def explain(tested: Tested, verdict: Verdict, window: Window, *, alpha: float) -> str:
    """Empty where there is nothing to say. `alpha`: the level that a single test is held to."""
    if verdict == "undecided":
        return _too_few(tested, alpha)
    if verdict == "stable":
        return ""
    if tested.column is None:
        return _worse(tested)
    counts = window.counts(tested.part, tested.name)
    if isinstance(counts, NumericCounts):
        assert isinstance(tested.column, NumericProfile), "of the same kind"
        return _of_numbers(tested, tested.column, counts)
    assert isinstance(tested.column, CategoryProfile), "of the same kind"
    return _of_categories(tested, tested.column, counts)


def _worse(tested: Tested) -> str:
    now, growth = tested.statistic or 0.0, tested.effect or 0.0
    before = now / (1 + growth)
    shown = (_percent(now), _percent(before)) if tested.name == "error_rate" else (_plain(now), _plain(before))
    return f"{shown[0]} on labelled rows, was {shown[1]} on the test split"


def _too_few(tested: Tested, alpha: float) -> str:
    if not min(tested.sizes):
        return f"no value among the {'current' if tested.sizes[0] else 'reference'} rows"
    if tested.p_value is None:
        return "too few rows in each category"
    if tested.unit == SPREADS and tested.must_see is not None:
        needed = rows_needed(tested.sizes[0], tested.must_see, alpha)
        more = (
            f"{needed:,} would show {tested.must_see:g} {SPREADS}"
            if needed
            else "more of the reference are needed, too"
        )
        return f"too few rows: {more}"
    return "too few rows"


@lru_cache(maxsize=64)
def rows_needed(num_reference: int, shift: float, alpha: float) -> int | None:
    """Current rows from which on a shift, in standard deviations, is found; None if the reference is too small."""
    low, high = 0, _MOST_ROWS
    if not _is_seen(num_reference, high, shift, alpha):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_seen(num_reference, middle, shift, alpha) else (middle, high)
    return high


def _is_seen(n: int, m: int, shift: float, alpha: float) -> bool:
    return bool(shift_of(detectable(np.array([n]), np.array([m]), alpha=alpha))[0] <= shift)


def _of_numbers(tested: Tested, column: NumericProfile, counts: NumericCounts) -> str:
    if tested.test == "weekday":
        assert column.counts.weekdays is not None and counts.weekdays is not None, "it was tested"
        return _moved(_WEEKDAYS, column.counts.weekdays, counts.weekdays)
    if tested.test == "range":
        return _outside(column, counts)
    if tested.test == "ks":
        return _shifted(column, counts)
    return _share(tested, column.counts, counts)


def _of_categories(tested: Tested, column: CategoryProfile, counts: CategoryCounts) -> str:
    if tested.test == "chi_square":
        return _moved((*column.categories, "others"), column.counts.cells, counts.cells)
    if tested.test == "new_categories":
        examples = ", ".join(name for name, _ in counts.unseen.most_common(_SHOWN))
        return f"{_percent(tested.statistic)} in categories that training did not show: {examples}"
    return _share(tested, column.counts, counts)


def _share(tested: Tested, before: Counts, now: Counts) -> str:
    assert tested.column is not None, "it has rows"
    if tested.test == "missing":
        is_all = now.num_missing == now.num_rows
        shown = "all" if is_all else _percent(now.num_missing / now.num_rows)
        return f"{shown} missing, was {_percent(before.num_missing / before.num_rows)}"
    num_infinite = now.num_infinite if isinstance(now, NumericCounts) else 0
    parts = [f"{now.num_unreadable:,} are not {_WHAT[tested.column.kind]}"] if now.num_unreadable else []
    parts += [f"{num_infinite:,} are infinite"] if num_infinite else []
    retyped = "another type: " if now.num_unreadable > now.num_rows / 2 else ""
    return f"{retyped}{' and '.join(parts) or 'fewer than before'}, of {now.num_rows:,}"


def _outside(column: NumericProfile, counts: NumericCounts) -> str:
    total = max(counts.num_values, 1)
    below, above = counts.cells[0] / total, counts.cells[-1] / total
    show = _date if column.kind == "date" else _plain
    parts = [f"{_percent(below)} below {show(column.minimum)}"] if below else []
    parts += [f"{_percent(above)} above {show(column.maximum)}"] if above else []
    return " and ".join(parts)


def _shifted(column: NumericProfile, counts: NumericCounts) -> str:
    """The median, unless the column became wider or narrower rather."""
    show = _date if column.kind == "date" else _plain
    before, now = (_quantiles(column.edges, cells) for cells in (column.counts.cells, counts.cells))
    if not len(column.edges):
        return "no finite value before"
    outside = (counts.cells[0] + counts.cells[-1]) / counts.num_values
    if column.minimum == column.maximum:
        return f"{_percent(outside)} are not {show(column.minimum)}, which all were before"
    if outside > 0.5:
        return f"{_percent(outside)} lie outside of {show(column.minimum)} to {show(column.maximum)}"
    if np.count_nonzero(counts.cells) == 1 and np.count_nonzero(column.counts.cells) > 1:
        return f"nearly constant: all values at about {show(now[1])}"
    moved = np.abs(now - before)
    if moved[1] >= 0.5 * moved.max() and show(now[1]) != show(before[1]):
        return f"median {show(now[1])}, was {show(before[1])}"
    return f"middle 80 % from {show(now[0])} to {show(now[2])}, was {show(before[0])} to {show(before[2])}"


def _quantiles(edges: FloatArray, cells: IntArray) -> FloatArray:
    """10, 50 and 90 % of what was counted, linear within a cell; the outer cells are taken for their one edge."""
    if not len(edges) or not cells.sum():
        return np.full(3, math.nan)
    return np.interp((0.1, 0.5, 0.9), np.cumsum(cells[:-1]) / cells.sum(), edges)


def _moved(names: tuple[str, ...], before: IntArray, now: IntArray) -> str:
    """The categories whose share changed most."""
    old, new = before / max(int(before.sum()), 1), now / max(int(now.sum()), 1)
    most = np.argsort(-np.abs(new - old), kind="stable")[:_SHOWN]
    parts = [f"{names[i]} {_percent(new[i])}, was {_percent(old[i])}" for i in most if new[i] != old[i]]
    return "; ".join(parts)


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.3g} %"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _date(days: float) -> str:
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days):%Y-%m-%d}"
    except (OverflowError, ValueError):
        return _plain(days)
