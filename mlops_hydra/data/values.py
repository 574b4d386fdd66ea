"""Raw values of one column to an array: numbers, booleans, dates, text. NumPy only.

The first step of `encoding.py`. Values are Python's (as JSON gives them) or NumPy's; None, NaN and NaT are missing.
Not here: what the values mean to a model, and anything learnt from data.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Kind
from mlops_hydra.errors import DataError, Fault

Values = Sequence[Any] | NDArray[Any]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BOOLEANS: Final = {"true": 1.0, "false": 0.0}
_MICROSECONDS_PER_DAY: Final = 86_400_000_000


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124
    except TypeError:  # pandas.NA refuses to be true or false
        return True
    except ValueError:  # an array
        return False


def read_values(values: Values, kind: Kind, name: str) -> NDArray[Any]:
    """One column as its kind: float64 [n] (dates: days since 1970), or object [n] of str and None for categories.

    Raises:
        DataError: a value cannot be read as `kind`; names the column and the first such row.
    """
    return _READERS[kind](values, name)


def read_numbers(values: Values, name: str) -> FloatArray:
    """float64 [n], missing as NaN. Text is read as Python reads it; infinity is refused."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "mMcV":
        raise _unreadable(name, values, 0, f"a number, not {values.dtype}")
    numbers = _converted(values, name, _to_number, "a number")
    if np.isinf(numbers).any():
        raise _unreadable(name, values, int(np.flatnonzero(np.isinf(numbers))[0]), "finite")
    return numbers


def read_booleans(values: Values, name: str) -> FloatArray:
    """float64 [n] of 0, 1 and NaN, from booleans, 0 and 1, or the words true and false in any case."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "mMcV":
        raise _unreadable(name, values, 0, f"true or false, not {values.dtype}")
    flags = _converted(values, name, _to_flag, "true or false")
    wrong = ~((flags == 0) | (flags == 1) | np.isnan(flags))
    if wrong.any():
        raise _unreadable(name, values, int(np.flatnonzero(wrong)[0]), "true or false")
    return flags


def read_dates(values: Values, name: str) -> FloatArray:
    """Days since 1970-01-01 in UTC, float64 [n], from datetimes, dates or ISO 8601 text."""
    if not (isinstance(values, np.ndarray) and values.dtype.kind == "M"):
        moments = []
        for row, value in enumerate(_plain(values)):
            try:
                moments.append(_to_moment(value))
            except (ValueError, TypeError, OverflowError):  # the first and last days, elsewhere on earth
                raise _unreadable(name, values, row, "a date such as 2024-05-31 or 2024-05-31T12:00:00Z") from None
        values = np.array(moments, dtype="datetime64[us]")
    microseconds = values.astype("datetime64[us]")
    days = microseconds.astype(np.int64) / _MICROSECONDS_PER_DAY
    days[np.isnat(microseconds)] = np.nan
    return np.asarray(days, dtype=np.float64)


def read_texts(values: Values, name: str) -> NDArray[np.object_]:
    """object [n] of str, or None where missing."""
    texts = np.empty(len(values), dtype=object)
    for row, value in enumerate(_plain(values)):
        try:
            texts[row] = value if type(value) is str else to_text(value)
        except TypeError:
            raise _unreadable(name, values, row, "text, a number or a boolean") from None
    return texts


def to_text(value: object) -> str | None:
    """The one spelling of a category: `5`, `5.0` and `"5"` are the same one.

    Raises:
        TypeError: a container or some other object that is no plain value.
    """
    if isinstance(value, str):
        return str(value)
    if is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _converted(values: Values, name: str, convert: Callable[[Any], float], rule: str) -> FloatArray:
    """All at once where NumPy can, else one by one to find what it could not read."""
    try:
        numbers = np.array(values, dtype=np.float64)
        if numbers.ndim == 1:
            return numbers
    except (ValueError, TypeError, OverflowError):
        pass
    numbers = np.empty(len(values))
    for row, value in enumerate(_plain(values)):
        try:
            numbers[row] = np.nan if is_missing(value) else convert(value)
        except (ValueError, TypeError, OverflowError):
            raise _unreadable(name, values, row, rule) from None
    return numbers


def _to_number(value: Any) -> float:
    return float(value)


def _to_flag(value: Any) -> float:
    return _BOOLEANS[value.strip().lower()] if _is_flag_word(value) else float(value)


def _is_flag_word(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in _BOOLEANS


def _to_moment(value: Any) -> datetime | date | None:
    if is_missing(value):
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date):
        return value
    raise TypeError(type(value).__name__)


def _plain(values: Values) -> Sequence[Any]:
    """Python values; dates as datetimes (nanoseconds would become integers)."""
    if not isinstance(values, np.ndarray):
        return values
    return list((values.astype("datetime64[us]") if values.dtype.kind == "M" else values).tolist())


def _unreadable(name: str, values: Values, row: int, rule: str) -> DataError:
    value = _plain(values)[row] if row < len(values) else None
    return DataError(Fault(f"column {name!r}, row {row}", f"must be {rule}", value))


_READERS: Final[dict[Kind, Callable[[Values, str], NDArray[Any]]]] = {
    "numeric": read_numbers,
    "boolean": read_booleans,
    "date": read_dates,
    "categorical": read_texts,
}
