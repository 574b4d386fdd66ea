"""What became of users or requests: a table of ids and numbers, read chunk by chunk.

Not here: whose outcomes they are (`exposures.py`), and what they say.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.ab import OutcomesConfig, Unit
from mlops_hydra.data.chunks import Chunk, read_chunks
from mlops_hydra.data.tables import Csv
from mlops_hydra.data.values import is_missing, read_dates, read_numbers, to_text
from mlops_hydra.errors import DataError, Fault, UsageError, nearest
from mlops_hydra.serving.ab.first_seen import Ids, Times, hashed
from mlops_hydra.serving.request_log.hashing import hashed as with_key

if TYPE_CHECKING:
    import pyarrow as pa

_UNITS: Final = get_args(Unit)
_CHUNK_ROWS: Final = 200_000
_NAMES: Final = (("data.source.", "outcomes."), ("data.", "outcomes."))
_FLAGS: Final = {"true": 1.0, "false": 0.0}
_DAY: Final = 86_400_000_000  # in us


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rows [n] of the table: whose, how much, and when it was known (us since 1970; None: not said).

    `ids_in_log` are the ids as a log has them that keeps keyed hashes of users. `num_nameless` rows had no id.
    """

    unit: Unit
    value: str
    ids: Ids
    values: NDArray[np.float64]
    times: Times | None
    ids_in_log: Ids | None
    num_nameless: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Names:
    """Of the columns."""

    unit: Unit
    id: str
    value: str
    time: str | None


def read_outcomes(asked: OutcomesConfig, *, key: bytes | None = None) -> Outcomes:
    """All of them.

    Args:
        key: of hashed columns of the request log, if it has some.

    Raises:
        RequestError: no such file or column, or a value that is no finite number; names row and column.
    """
    names: _Names | None = None
    ids, hashes, values, times, num_rows, num_nameless = [], [], [], [], 0, 0
    examples: list[str] = []
    for chunk in _chunks(asked):
        names = names or _names(chunk.names, asked)
        texts = _ids(chunk, names.id)
        has_id = np.array(texts.is_valid())
        known = texts.filter(has_id)
        ids.append(hashed(known, names.unit))
        if key is not None and names.unit == "user_id":
            hashes.append(_with_key(known, key))
        values.append(_numbers(chunk, names.value, num_rows)[has_id])
        if names.time is not None:
            times.append(_moments(chunk, names.time, num_rows)[has_id])
        num_nameless += int((~has_id).sum())
        num_rows += len(chunk)
        examples = examples or known[:3].to_pylist()
    assert names is not None, "there is one chunk at least"
    if not num_rows:
        raise DataError(Fault("outcomes.path", "has columns but no rows", asked.path))
    return Outcomes(
        names.unit,
        names.value,
        np.concatenate(ids),
        np.concatenate(values),
        _ends(np.concatenate(times)) if times else None,
        np.concatenate(hashes) if hashes else None,
        num_nameless,
        tuple(examples),
    )


def _chunks(asked: OutcomesConfig) -> Iterator[Chunk]:
    if asked.path is None:
        rule = "is needed: a CSV or Parquet file of user_id (or request_id) and a value, outcomes.path=outcomes.csv"
        raise UsageError(Fault("outcomes.path", rule))
    try:
        yield from read_chunks(asked.path, _CHUNK_ROWS, Csv(asked.path, asked.separator, asked.encoding, asked.decimal))
    except DataError as error:  # the settings have other names here
        raise DataError([_renamed(fault) for fault in error.faults]) from error


def _renamed(fault: Fault) -> Fault:
    for name, ours in _NAMES:
        fault = replace(fault, path=fault.path.replace(name, ours), rule=fault.rule.replace(name, ours))
    return fault


def _names(columns: list[str], asked: OutcomesConfig) -> _Names:
    faults = [
        Fault(f"outcomes.{key}", "no such column", name, nearest(name, columns))
        for key in ("id", "value", "time")
        if (name := getattr(asked, key)) is not None and name not in columns
    ]
    if faults:
        raise DataError(faults)
    unit = asked.unit or _unit(columns, asked)
    name = asked.id or unit
    if name not in columns:
        rule = f"there is no column {name!r}: name the one of the ids"
        raise DataError(Fault("outcomes.id", rule, None, nearest(name, columns)))
    others = [column for column in columns if column not in (name, asked.time, *_UNITS)]
    if asked.value is None and len(others) != 1:
        rule = f"is needed: which column is the outcome ({', '.join(others)})" if others else "there is no other column"
        raise DataError(Fault("outcomes.value", rule))
    return _Names(unit, name, asked.value or others[0], asked.time)


def _unit(columns: list[str], asked: OutcomesConfig) -> Unit:
    found = [unit for unit in _UNITS if unit in columns]
    if len(found) == 1:
        return cast("Unit", found[0])
    if asked.id is not None and not found:
        return "user_id"
    if found:
        rule = "is needed, there are columns of both: outcomes.unit=request_id is exact, user_id counts all of a user's"
        raise DataError(Fault("outcomes.unit", rule))
    rule = f"there is neither a column user_id nor request_id ({', '.join(columns)}): name the one of user ids"
    raise DataError(Fault("outcomes.id", rule))


def _ids(chunk: Chunk, name: str) -> "pa.Array":
    """As the log spells them; null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = chunk.table.column(name).combine_chunks()
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return pa.array([to_text(value) for value in column.to_pylist()], pa.string())
    return pc.if_else(pc.equal(column, ""), None, column).cast(pa.string())


def _with_key(ids: "pa.Array", key: bytes) -> Ids:
    import pyarrow as pa

    coded = ids.dictionary_encode()
    names = pa.array([with_key(text, key) for text in coded.dictionary.to_pylist()], pa.string())
    return hashed(names.take(coded.indices), "user_id")


def _numbers(chunk: Chunk, name: str, num_before: int) -> NDArray[np.float64]:
    """Raises DataError for the first that is none, is missing or infinite."""
    values = chunk.column(name, "numeric", is_spelled=False)
    if values.dtype == object:
        values = np.array([_as_number(value) for value in values], dtype=object)
    try:
        numbers = read_numbers(values, name)
    except DataError:
        row, rule = next((row, rule) for row, value in enumerate(values) if (rule := _problem(value)))
        raise _wrong(name, num_before + row, rule, values[row]) from None
    if np.isnan(numbers).any():
        row = int(np.flatnonzero(np.isnan(numbers))[0])
        rule = "has no value: leave the row out, or write the number it stands for"
        raise _wrong(name, num_before + row, rule, None)
    return numbers


def _as_number(value: Any) -> Any:
    return _FLAGS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _problem(value: Any) -> str:
    try:
        read_numbers([value], "")
    except DataError as error:
        return error.faults[0].rule
    return ""


def _wrong(name: str, row: int, rule: str, value: Any) -> DataError:
    if isinstance(value, np.generic):
        value = value.item()
    return DataError(Fault(f"outcomes, column {name!r}, row {row}", f"{rule} (rows count from 0)", value))


def _ends(times: Times) -> Times:
    """Dates without a time of day stand for the end of the day: else all would lie before that day's exposures."""
    return times + _DAY - 1 if not (times % _DAY).any() else times


def _moments(chunk: Chunk, name: str, num_before: int) -> Times:
    values = chunk.column(name, "date", is_spelled=True)
    try:
        days = read_dates(values, name)
    except DataError as error:
        fault = error.faults[0]
        row = num_before + int(fault.path.rsplit(" ", 1)[-1])
        raise _wrong(name, row, fault.rule, fault.value) from None
    if np.isnan(days).any():
        row = int(np.flatnonzero([is_missing(value) for value in days])[0])
        raise _wrong(name, num_before + row, "has no time", None)
    return np.asarray(np.rint(days * _DAY), dtype=np.int64)
