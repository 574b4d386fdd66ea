"""The JSON of a profile. It comes with a bundle, perhaps a stranger's: nothing in it is believed unseen.

    {"format": 1, "rows": n, "features": [column, ...], "outputs": [column, ...], "losses": {name: moments}}
    column   {"name", "kind", "points", "edges", "cells", "mean", "deviation"} and weekdays of a date
             {"name", "kind", "categories", "cells"}
    moments  {"n", "mean", "variance"}

A point stands for its two edges (see `grid.py`). Counts that are 0 (missing, unreadable, infinite, below, above,
uncertainty) are left out; null is what is no finite number.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import numpy as np

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.errors import DataError, Fault
from mlops_hydra.monitoring.grid import join_edges, part_edges
from mlops_hydra.monitoring.profile import (
    FLAGS,
    CategoryCounts,
    CategoryProfile,
    ColumnProfile,
    Moments,
    NumericCounts,
    NumericProfile,
    Profile,
)

FORMAT: Final = 1
MAX_LETTERS: Final = 64 * 2**20
_MAX_COUNT: Final = 2**53  # beyond, cumulated counts are not exact as floats
_OPTIONAL: Final = {"missing", "unreadable"}
_OPTIONAL_NUMERIC: Final = {*_OPTIONAL, "infinite", "below", "above", "uncertainty"}


def dump(profile: Profile) -> str:
    """One line a column."""
    losses = {
        name: {"n": m.n, "mean": _plain(m.mean), "variance": _plain(m.variance)} for name, m in profile.losses.items()
    }
    parts = [f'"format":{FORMAT}', f'"rows":{profile.num_rows}']
    for name, columns in (("features", profile.features), ("outputs", profile.outputs)):
        lines = ",\n".join(_text(_column(column)) for column in columns)
        parts.append(f'"{name}":[\n{lines}\n]')
    return "{" + ",\n".join([*parts, f'"losses":{_text(losses)}']) + "}\n"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _column(column: ColumnProfile) -> dict[str, Any]:
    counts = column.counts
    found: dict[str, Any] = {"name": column.name, "kind": column.kind}
    rest: dict[str, Any] = {"missing": counts.num_missing, "unreadable": counts.num_unreadable}
    if isinstance(column, NumericProfile):
        points, others = part_edges(column.edges)
        found |= {"points": _plain_list(points), "edges": _plain_list(others)}
        found |= {"mean": _plain(column.mean), "deviation": _plain(column.deviation)}
        if column.counts.weekdays is not None:
            found["weekdays"] = column.counts.weekdays.tolist()
        rest |= {"infinite": column.counts.num_infinite, "uncertainty": _plain(column.uncertainty)}
        rest |= {"below": _plain(column.counts.below), "above": _plain(column.counts.above)}
    else:
        found["categories"] = column.categories
    found["cells"] = counts.cells.tolist()
    return found | {key: value for key, value in rest.items() if value}


def _plain_list(numbers: FloatArray) -> list[int | float | None]:
    return [_plain(number) for number in numbers.tolist()]


def _plain(number: float) -> int | float | None:
    """What needs the fewest letters and is read as the same number: 5 rather than 5.0."""
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(number)


def load(text: str) -> Profile:
    """Every fault there can be is a DataError: the first one that is found."""
    if len(text) > MAX_LETTERS:
        _refuse("", f"must have at most {MAX_LETTERS:,} letters", len(text))
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(Fault("profile", f"is no JSON: {str(error) or 'too deep'}"[:200])) from None
    if isinstance(found, dict) and found.get("format") != FORMAT:
        _refuse("format", f"must be {FORMAT}: it was written by another version of mlops_hydra", found.get("format"))
    fields = _fields(found, "", {"format", "rows", "features", "outputs", "losses"})
    losses = fields["losses"]
    if not isinstance(losses, dict):
        _refuse("losses", "must be a mapping", losses)
    return Profile(
        _count(fields["rows"], "rows"),
        _load_columns(fields["features"], "features"),
        _load_columns(fields["outputs"], "outputs"),
        {name: _load_moments(moments, f"losses.{name[:100]}") for name, moments in losses.items()},
    )


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _load_columns(found: object, where: str) -> tuple[ColumnProfile, ...]:
    columns = tuple(_load_column(each, f"{where}[{i}]") for i, each in enumerate(_list(found, where)))
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        _refuse(where, "must have different names", next(name for name in names if names.count(name) > 1))
    return columns


def _load_column(found: object, where: str) -> ColumnProfile:
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind in ("numeric", "date"):  # no set: it may have no hash
        return _load_numeric(found, where, kind)
    if kind not in ("categorical", "boolean"):
        _refuse(where, "must be a mapping of kind numeric, date, categorical or boolean", kind)
    return _load_categories(found, where, kind)


def _load_numeric(found: object, where: str, kind: Any) -> NumericProfile:
    needed = {"name", "kind", "points", "edges", "cells", "mean", "deviation"}
    needed |= {"weekdays"} if kind == "date" else set()
    fields = _fields(found, where, needed, _OPTIONAL_NUMERIC)
    points, others = (_ascending(fields[key], f"{where}.{key}") for key in ("points", "edges"))
    edges = join_edges(points, others)
    cells = _counts(fields["cells"], f"{where}.cells", len(edges) + 1)
    missing, unreadable, infinite = (
        _count(fields.get(key, 0), f"{where}.{key}") for key in ("missing", "unreadable", "infinite")
    )
    below, above = (_positive(fields.get(key, 0), f"{where}.{key}") for key in ("below", "above"))
    weekdays = _counts(fields["weekdays"], f"{where}.weekdays", 7) if kind == "date" else None
    counts = NumericCounts(cells, missing, unreadable, infinite, below, above, weekdays)
    if counts.num_infinite > counts.num_values:
        _refuse(f"{where}.infinite", f"must be at most {counts.num_values}, the sum of cells", counts.num_infinite)
    has_values = counts.num_values > counts.num_infinite
    mean = _number(fields["mean"], f"{where}.mean") if has_values else math.nan
    deviation = _positive(fields["deviation"], f"{where}.deviation")
    uncertainty = _positive(fields.get("uncertainty", 0), f"{where}.uncertainty")
    if uncertainty > 1:
        _refuse(f"{where}.uncertainty", "must be at most 1", uncertainty)
    return NumericProfile(_string(fields["name"], where), kind, edges, counts, mean, deviation, uncertainty)


def _load_categories(found: object, where: str, kind: Any) -> CategoryProfile:
    fields = _fields(found, where, {"name", "kind", "categories", "cells"}, _OPTIONAL)
    categories = tuple(
        _string(text, f"{where}.categories") for text in _list(fields["categories"], f"{where}.categories")
    )
    if len(set(categories)) < len(categories) or (kind == "boolean" and categories != FLAGS):
        _refuse(f"{where}.categories", "must be different texts" if kind == "categorical" else f"must be {FLAGS}")
    cells = _counts(fields["cells"], f"{where}.cells", len(categories) + 1)
    missing, unreadable = (_count(fields.get(key, 0), f"{where}.{key}") for key in ("missing", "unreadable"))
    counts = CategoryCounts(cells, missing, unreadable)
    return CategoryProfile(_string(fields["name"], where), kind, categories, counts)


def _load_moments(found: object, where: str) -> Moments:
    fields = _fields(found, where, {"n", "mean", "variance"})
    mean = math.nan if fields["mean"] is None else _number(fields["mean"], f"{where}.mean")
    variance = math.nan if fields["variance"] is None else _positive(fields["variance"], f"{where}.variance")
    return Moments(_count(fields["n"], f"{where}.n"), mean, variance)


def _fields(found: object, where: str, needed: set[str], optional: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        _refuse(where, "must be a mapping", found)
    if missing := sorted(needed - found.keys()):
        _refuse(where, f"must have {', '.join(missing)}")
    if strange := sorted(found.keys() - needed - (optional or set())):
        _refuse(where, "has a key that nobody knows", strange[0])
    return found


def _list(found: object, where: str) -> list[Any]:
    return found if isinstance(found, list) else _refuse(where, "must be a list", found)


def _string(found: object, where: str) -> str:
    return found if isinstance(found, str) else _refuse(where, "must be text", found)


def _count(found: object, where: str) -> int:
    if type(found) is not int or not 0 <= found <= _MAX_COUNT:
        _refuse(where, f"must be a whole number from 0 to {_MAX_COUNT}", found)
    return found


def _counts(found: object, where: str, length: int) -> IntArray:
    numbers = _list(found, where)
    if len(numbers) != length:
        _refuse(where, f"must be {length} numbers", len(numbers))
    _count(sum(_count(number, where) for number in numbers), where)
    return np.array(numbers, dtype=np.int64)


def _number(found: object, where: str) -> float:
    number = math.nan
    if type(found) is float or type(found) is int:
        with suppress(OverflowError):
            number = float(found)
    if not math.isfinite(number):
        _refuse(where, "must be a finite number", found)
    return number


def _positive(found: object, where: str) -> float:
    number = _number(found, where)
    return number if number >= 0 else _refuse(where, "must not be negative", number)


def _ascending(found: object, where: str) -> FloatArray:
    numbers = np.array([_number(number, where) for number in _list(found, where)], dtype=np.float64)
    if (numbers[1:] <= numbers[:-1]).any():
        _refuse(where, "must be strictly ascending")
    return numbers


def _refuse(where: str, rule: str, value: object = None) -> NoReturn:
    """Values are shown only as far as they are short: a stranger may have written them."""
    if isinstance(value, int) and abs(value) >= 2**63:
        value = "a number of more than 64 bits"
    shown = value if value is None or isinstance(value, bool | int | float) else str(value)[:60]
    raise DataError(Fault(f"profile, {where}" if where else "profile", rule, shown))
