"""Rows for models of torch Datasets: each of the graph's inputs is a nested list of its shape."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from mlops_hydra.packaging.graph import Input
from mlops_hydra.serving.body import NO_JSON, lenient
from mlops_hydra.serving.columns import Columns
from mlops_hydra.serving.decoding import UNLIMITED, Arrays, Row, converts, is_long, limited, object_decoder, place_of
from mlops_hydra.serving.refusal import MAX_FAULTS, Refusal, RowFault, alike, refused, shown


class ArrayReader:
    """A `RowReader` of arrays."""

    def __init__(self, inputs: Sequence[Input], columns: Columns) -> None:
        self._inputs = tuple(inputs)
        self.columns = columns
        self.names: tuple[str, ...] = ()
        self._types = [_nested(item) for item in inputs]
        self._named = object_decoder([item.name for item in inputs], self._types)
        self._only = msgspec.json.Decoder(self._types[0]).decode if len(inputs) == 1 else None

    def rows(self, content: Raw, *, max_rows: int = UNLIMITED) -> list[Row]:
        """See `RowReader`; these are objects."""
        try:
            rows = self._named(content)
        except NO_JSON as error:
            raise (self._told(*place_of(error)) if is_long(content) else self._explained(lenient(content))) from None
        return [self._checked(number, row) for number, row in enumerate(limited(rows, max_rows))]

    def row(self, content: Raw) -> list[Row]:
        """See `RowReader`."""
        if self._only is None:
            names = ", ".join(item.name for item in self._inputs)
            raise refused(422, f"`features` is for models of one input; this one needs `rows` with {names}")
        try:
            return [self._checked(0, (self._only(content),))]
        except NO_JSON:
            item = self._inputs[0]
            value = None if is_long(content) else shown(lenient(content))
            raise Refusal(422, [RowFault(0, item.name, _rule_of(item), value)]) from None

    def arrays(self, rows: Sequence[Row]) -> Arrays:
        """One array [n, ...] for each input."""
        return {item.name: np.stack(values) for item, values in zip(self._inputs, zip(*rows, strict=True), strict=True)}

    def unusual(self, arrays: Arrays) -> None:
        """Nothing is known of what training saw."""

    def _checked(self, number: int, row: Row) -> Row:
        arrays = tuple(_as_array(value, item) for value, item in zip(row, self._inputs, strict=True))
        for array, value, item in zip(arrays, row, self._inputs, strict=True):
            if array is None:
                raise Refusal(422, [RowFault(number, item.name, _rule_of(item), shown(value))])
        return arrays

    def _explained(self, rows: Any) -> Refusal:
        if not isinstance(rows, list):
            return refused(422, "`rows` must be a list of rows", shown(rows))
        found = (fault for number, row in enumerate(rows) for fault in self._faults(number, row))
        faults = list(islice(found, MAX_FAULTS))
        return Refusal(422, faults) if faults else refused(422, "`rows` cannot be read: is a key there twice?")

    def _told(self, row: int | None, column: str | int | None) -> Refusal:
        """In short, of what is too long to be read once more."""
        if row is None:
            return refused(422, "`rows` must be a list of objects")
        for item in self._inputs:
            if item.name == column:
                return Refusal(422, [RowFault(row, item.name, _rule_of(item))])
        rule = "must be an object with " + ", ".join(item.name for item in self._inputs)
        return Refusal(422, [RowFault(row, None, rule)])

    def _faults(self, number: int, row: Any) -> Iterator[RowFault]:
        if not isinstance(row, dict):
            names = ", ".join(item.name for item in self._inputs)
            yield RowFault(number, None, f"must be an object with {names}", shown(row))
            return
        for item, kind in zip(self._inputs, self._types, strict=True):
            if item.name not in row:
                yield RowFault(number, item.name, f"is missing; {_rule_of(item)}", None, alike(item.name, row))
            elif not converts(row[item.name], kind) or _as_array(row[item.name], item) is None:
                yield RowFault(number, item.name, _rule_of(item), shown(row[item.name]))


def _as_array(value: Any, item: Input) -> NDArray[Any] | None:
    """None where it has another shape, is not finite, or is no whole number where it should be one."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.array(value, dtype=item.dtype)
            fits = np.isfinite(array).all() if array.dtype.kind == "f" else np.array_equal(array, np.array(value))
    except (ValueError, OverflowError):  # lists of different lengths, or a number out of range
        return None
    return array if array.shape == item.shape and fits else None


def _rule_of(item: Input) -> str:
    return f"must be {_told(item)}"


def _told(item: Input) -> str:
    what = f"a list of the shape {list(item.shape)}" if item.shape else "one value"
    return f"{what} of {item.dtype}"


def _nested(item: Input) -> Any:
    kind: Any = float
    if item.dtype == "bool":
        kind = bool
    elif not item.dtype.startswith("float"):
        kind = int | float  # 3.0 is a whole number, too; see `_as_array`
    for _ in item.shape:
        kind = list[kind]
    return kind
