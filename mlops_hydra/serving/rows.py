"""Rows of a request -> arrays for the graph: decoders are compiled from what a bundle says of its columns.

A row is a tuple of values in the order of the bundle's columns. `TableReader` is for models of tables, `ArrayReader` in
`array_rows.py` for those of torch Datasets, whose columns are the graph's inputs. Not here: batching, and what a value
means (`data/encoding.py`).

Shapes: n rows, d numeric columns, c categorical columns.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Final, Protocol

import msgspec
import numpy as np
from msgspec import Meta, Raw
from numpy.typing import NDArray

from mlops_hydra.data.encoding import UNKNOWN, FeatureSchema, encode, encode_rows
from mlops_hydra.data.values import IntArray
from mlops_hydra.errors import DataError
from mlops_hydra.packaging.bundle import Bundle
from mlops_hydra.serving.array_rows import ArrayReader
from mlops_hydra.serving.body import NO_JSON, lenient
from mlops_hydra.serving.columns import Columns, columns_of
from mlops_hydra.serving.decoding import UNLIMITED, Arrays, Row, converts, is_long, limited, object_decoder, place_of
from mlops_hydra.serving.refusal import MAX_FAULTS, Refusal, RowFault, TooLarge, alike, refused, shown

__all__ = ["Arrays", "Row", "RowReader", "TableReader", "reader_of"]

_LIST_OF_LISTS: Final = re.compile(rb"\s*\[\s*\[")
MAX_TEXT_LENGTH: Final = 10_000  # characters of a category
_TEXT = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
_TYPES: Final[Mapping[str, Any]] = {
    "numeric": float | None,
    "boolean": bool | float | None,
    "categorical": _TEXT | int | float | bool | None,
    "date": Annotated[str, Meta(max_length=64)] | None,
}
_TOO_LARGE: Final = "must be a number of at most 1.8e308"
_RULES: Final[Mapping[str, str]] = {
    "numeric": "must be a number, or null",
    "boolean": "must be true or false, or null",
    "categorical": f"must be text of at most {MAX_TEXT_LENGTH} characters, a number, true, false, or null",
    "date": "must be a date such as 2024-05-31 or 2024-05-31T12:00:00Z, or null",
}


class RowReader(Protocol):
    """What a bundle can be asked in JSON."""

    @property
    def columns(self) -> Columns:
        """Name and kind of each, in order; two bundles that agree take the same rows."""

    def rows(self, content: Raw, *, max_rows: int = UNLIMITED) -> list[Row]:
        """Of a list of objects, or of a list of lists. Raises Refusal."""

    def row(self, content: Raw) -> list[Row]:
        """The one row of a list of values. Raises Refusal."""

    def arrays(self, rows: Sequence[Row]) -> Arrays:
        """What the graph takes, each [n, ...]. Raises Refusal, of which the row counts from the first of these."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns in which values can be unusual: outside of the range, or a category, that training saw."""

    def unusual(self, arrays: Arrays) -> IntArray | None:
        """How many are, in each of these columns; None where no value is."""


def reader_of(bundle: Bundle) -> RowReader:
    """The reader for a bundle's rows."""
    columns = columns_of(bundle)
    return ArrayReader(bundle.inputs, columns) if bundle.schema is None else TableReader(bundle.schema, columns)


class TableReader:
    """Rows of a table, by its schema."""

    def __init__(self, schema: FeatureSchema, columns: Columns) -> None:
        self._schema = schema
        self.columns = columns
        types = [_TYPES[kind] for _, kind in self.columns]
        self._named = object_decoder(schema.names, types)
        positional: Any = tuple.__class_getitem__(tuple(types))
        self._row = msgspec.json.Decoder(positional).decode
        self._lists = msgspec.json.Decoder(list[positional]).decode
        self.names = (*schema.numeric_names, *schema.categorical_names)
        self._low, self._high = _ranges(schema)

    def rows(self, content: Raw, *, max_rows: int = UNLIMITED) -> list[Row]:
        """See `RowReader`."""
        try:
            rows = self._lists(content) if _LIST_OF_LISTS.match(content) else self._named(content)
        except NO_JSON as error:
            raise (self._told(*place_of(error)) if is_long(content) else self._explained(lenient(content))) from None
        return limited(rows, max_rows)

    def row(self, content: Raw) -> list[Row]:
        """See `RowReader`."""
        try:
            return [self._row(content)]
        except NO_JSON as error:
            if is_long(content):
                raise self._told(0, place_of(error)[0]) from None
            values = lenient(content)
            if isinstance(values, list):
                faults = list(islice(_faults_of_values(0, values, self.columns), MAX_FAULTS))
            else:
                rule = f"`features` must be a list of {len(self.columns)} values, in the order of the columns"
                faults = [RowFault(0, None, rule, shown(values))]
            raise Refusal(422, faults) from None

    def arrays(self, rows: Sequence[Row]) -> Arrays:
        """numeric: float64 [n, d]. codes: int64 [n, c]."""
        try:
            encoded = encode_rows(rows, self._schema)
        except DataError:  # a flag other than 0 and 1, or a date that is none: few, so looked for one by one
            raise self._unreadable(rows) from None
        return {"numeric": encoded.numeric, "codes": encoded.codes}

    def unusual(self, arrays: Arrays) -> IntArray | None:
        """See `RowReader`."""
        numeric, codes = arrays["numeric"], arrays["codes"]
        outside = (numeric < self._low) | (numeric > self._high)
        if not codes.size:
            return outside.sum(axis=0) if outside.any() else None
        unknown = codes == UNKNOWN
        if not outside.any() and not unknown.any():
            return None
        return np.concatenate([outside.sum(axis=0), unknown.sum(axis=0)])

    def _unreadable(self, rows: Sequence[Row]) -> Refusal:
        faults: list[RowFault] = []
        for number, row in enumerate(rows):
            for feature, value in zip(self._schema.features, row, strict=True):
                if feature.kind != "categorical" and len(faults) < MAX_FAULTS and not _reads(feature.name, value, self):
                    faults.append(RowFault(number, feature.name, _RULES[feature.kind], shown(value)))
        return Refusal(422, faults)

    def _explained(self, rows: Any) -> Refusal:
        if not isinstance(rows, list):
            return refused(422, "`rows` must be a list of rows", shown(rows))
        found = (fault for number, row in enumerate(rows) for fault in _faults_of_row(number, row, self.columns))
        faults = list(islice(found, MAX_FAULTS)) or list(_other_row(rows))
        return Refusal(422, faults) if faults else refused(422, "`rows` cannot be read: is a key there twice?")

    def _told(self, row: int | None, column: str | int | None) -> Refusal:
        """In short, of what is too long to be read once more."""
        if row is None:
            return refused(422, "`rows` must be a list of rows")
        kinds = dict(self.columns)
        name = self.columns[column][0] if isinstance(column, int) else column
        if name in kinds:
            return Refusal(422, [RowFault(row, name, _RULES[kinds[name]])])
        rule = f"must be an object with every column, or a list of {len(kinds)} values, in the order of the columns"
        return Refusal(422, [RowFault(row, None, rule)])


def _reads(name: str, value: Any, reader: TableReader) -> bool:
    """Whether one value is what its column takes."""
    schema = reader._schema
    one = FeatureSchema(tuple(f for f in schema.features if f.name == name), None, schema.task, schema.classes)
    try:
        encode({name: [value]}, one)
    except DataError:
        return False
    return True


def _ranges(schema: FeatureSchema) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What training saw of each numeric column [d]; anything goes for the parts of a date, and for flags."""
    bounds = [
        (-np.inf, np.inf) if f.kind != "numeric" or f.minimum is None or f.maximum is None else (f.minimum, f.maximum)
        for f in schema.numeric_features
    ]
    low, high = np.array(bounds, dtype=np.float64).reshape(-1, 2).T.copy()
    return low, high


def _faults_of_row(number: int, row: Any, columns: Columns) -> Iterator[RowFault]:
    if not isinstance(row, dict):
        yield from _faults_of_values(number, row, columns)
        return
    for name, kind in columns:
        if name not in row:
            yield RowFault(number, name, "is missing (null says that a value is)", None, alike(name, row))
        elif not _fits(row[name], kind):
            yield RowFault(number, name, _rule(row[name], kind), shown(row[name]))


def _faults_of_values(number: int, values: Any, columns: Columns) -> Iterator[RowFault]:
    needed = f"{len(columns)} values, in the order of the columns"
    if not isinstance(values, list):
        rule = f"must be an object by column name, or a list of {needed}"
        yield RowFault(number, None, rule, shown(values))
    elif len(values) != len(columns):
        yield RowFault(number, None, f"must have {needed}", len(values))
    else:
        for (name, kind), value in zip(columns, values, strict=True):
            if not _fits(value, kind):
                yield RowFault(number, name, _rule(value, kind), shown(value))


def _rule(value: Any, kind: str) -> str:
    is_large = isinstance(value, TooLarge) or (type(value) is int and kind == "numeric")
    return _TOO_LARGE if is_large and kind != "date" else _RULES[kind]


def _other_row(rows: Sequence[Any]) -> Iterator[RowFault]:
    """The first row that is a list where others are objects, or the other way round."""
    what: dict[Any, str] = {dict: "an object by column name", list: "a list of values"}
    for number, row in enumerate(rows):
        if type(row) is not type(rows[0]):
            yield RowFault(number, None, f"must be {what[type(rows[0])]}, as the first row is", shown(row))
            return


def _fits(value: Any, kind: str) -> bool:
    return converts(value, _TYPES[kind])
