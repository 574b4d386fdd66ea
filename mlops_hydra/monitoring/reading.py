"""Values of one column as they come, read without complaint: what is no such value is counted, and nothing raises.

What `data/values.py` reads is read alike here, so that training and monitoring see the same numbers and categories.
Not here: counting numbers over a grid (`counts.py`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Kind
from mlops_hydra.data.values import FloatArray, Values, is_missing, read_dates, to_text


@dataclass(frozen=True, slots=True)
class ReadNumbers:
    """values: float64 [n], infinities among them, but no NaN."""

    values: FloatArray
    num_missing: int
    num_unreadable: int
    num_infinite: int


@dataclass(slots=True)
class ReadCategories:
    """How often each category occurs, in order of appearance."""

    counts: Counter[str] = field(default_factory=Counter)
    num_missing: int = 0
    num_unreadable: int = 0


def read_numeric(values: Values, kind: Kind) -> ReadNumbers:
    """The numbers of a column; of kind date, days since 1970-01-01 in UTC."""
    numbers, num_unreadable = read_floats(values, kind)
    is_known = ~np.isnan(numbers)
    known = numbers[is_known]
    num_missing = len(numbers) - len(known) - num_unreadable
    return ReadNumbers(known, num_missing, num_unreadable, int(np.isinf(known).sum()))


def read_floats(values: Values, kind: Kind) -> tuple[FloatArray, int]:
    """float64 [n], NaN where a value is missing or cannot be read, and how many cannot be read."""
    if kind == "date":
        return _dates(values)
    if isinstance(values, np.ndarray):
        if values.dtype.char == "d" and values.ndim == 1 and values.dtype.isnative:
            return values, 0
        if values.dtype.kind in "biuf" and values.ndim == 1:
            return values.astype(np.float64), 0
        if values.dtype.kind in "mMcV":
            num_missing = int(np.isnat(values).sum()) if values.dtype.kind in "mM" else 0
            return np.full(len(values), np.nan), len(values) - num_missing
    try:
        numbers = np.array(values, dtype=np.float64)
        if numbers.ndim == 1:
            return numbers, 0
    except Exception:  # values are strangers': any object, with any methods
        pass
    return _one_by_one(_plain(values))


def _one_by_one(values: Iterable[Any]) -> tuple[FloatArray, int]:
    numbers, num_unreadable = [], 0
    for value in values:
        try:
            numbers.append(np.nan if is_missing(value) else float(value))
        except Exception:
            numbers.append(np.nan)
            num_unreadable += 1
    return np.array(numbers, dtype=np.float64), num_unreadable


def _dates(values: Values) -> tuple[FloatArray, int]:
    """Each date once, where many rows share it: reading one as text costs 1.5 us."""
    if not isinstance(values, np.ndarray) or values.dtype.kind != "M":
        values = _plain(values)
        try:
            place = {value: i for i, value in enumerate(dict.fromkeys(values))}
        except Exception:  # a list or a mapping has no hash
            place = {}
        if 0 < 2 * len(place) <= len(values):
            days, is_bad = _distinct_dates(list(place))
            of_row = np.array([place[value] for value in values])
            return days[of_row], int(is_bad[of_row].sum())
    days, is_bad = _distinct_dates(values)
    return days, int(is_bad.sum())


def _distinct_dates(values: Values) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Days, and which are none: all at once where that goes, else each half, so that few bad dates cost little."""
    try:
        days = read_dates(values, "")
        if days.ndim == 1:
            return days, np.zeros(len(days), dtype=bool)
    except Exception:
        pass
    if len(values) == 1:
        return np.array([np.nan]), np.array([True])
    halves = [_distinct_dates(half) for half in (values[: len(values) // 2], values[len(values) // 2 :])]
    return np.concatenate([days for days, _ in halves]), np.concatenate([is_bad for _, is_bad in halves])


def read_categories(values: Values, kind: Kind) -> ReadCategories:
    """The categories of a column as `to_text` spells them; of kind boolean, true and false."""
    tally = _tally(values)
    read = ReadCategories()
    if isinstance(tally, Counter):
        read.num_missing = tally.pop(None, 0)
        if kind == "categorical" and set(map(type, tally)) <= {str}:
            read.counts = tally
            return read
        tally = list(tally.items())
    spell, counts = _flag if kind == "boolean" else to_text, read.counts
    for value, number in tally:
        try:
            text = spell(value)
        except Exception:
            read.num_unreadable += number
            continue
        if text is None:
            read.num_missing += number
        else:
            counts[text] += number
    return read


def _tally(values: Values) -> "Counter[Any] | list[tuple[Any, int]]":
    """Different values and how often each occurs; in a list, some may come several times."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        distinct, counts = np.unique(values, return_counts=True)
        return list(zip(distinct.tolist(), counts.tolist(), strict=True))
    plain = _plain(values)
    try:
        tally = Counter(plain)
        is_mixed = (0 in tally or 1 in tally) and len(set(map(type, plain)) - {str, type(None)}) > 1
    except Exception:  # a list or a mapping has no hash
        is_mixed = True
    return [(value, 1) for value in plain] if is_mixed else tally  # True == 1, but they are two categories


def _flag(value: Any) -> str | None:
    """As `read_booleans`; raises where the value is neither."""
    if is_missing(value):
        return None
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in {"true", "false"}:
        return word
    number = float(value)
    return None if np.isnan(number) else {0.0: "false", 1.0: "true"}[number]


def _plain(values: Values) -> list[Any]:
    """Python's values; dates as datetimes (nanoseconds would become integers)."""
    if not isinstance(values, np.ndarray):
        return list(values)
    return list((values.astype("datetime64[us]") if values.dtype.kind == "M" else values).tolist())
