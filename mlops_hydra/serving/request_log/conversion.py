"""Lines of the journal -> Arrow tables, by the description of the model that they name.

Values are brought to their columns' types; a category has the one spelling that it has everywhere. A line that cannot
be read is one for the caller to put aside. Not here: files.

15 us for a row of 64 numbers, half of it decoding (`docs/decisions/0013-request-log.md`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from mlops_hydra.data.values import to_text
from mlops_hydra.serving.request_log.journal import ENTRY_START, MODEL_START
from mlops_hydra.serving.request_log.parquet_files import FEATURE, FIXED, type_of, unified

_HOUR_US: Final = 3_600_000_000
_END_US: Final = 253_402_300_800_000_000  # the year 10,000
_TYPES: Final = {"numeric": float | None, "boolean": bool | float | None}
_FLAGS: Final = {"true": True, "false": False}
_REFUSALS: Final = (msgspec.DecodeError, ValueError, RecursionError)  # ValueError: bytes that are no UTF-8
Row = tuple[Any, ...]


class Description(msgspec.Struct):
    """A line that describes a model."""

    model: int
    version: str
    fingerprint: str
    lineage: str
    features: list[tuple[str, str]]
    task: str


class Entry(msgspec.Struct, gc=False):
    """A line of a request; `rows` are tuples in the order of the model's columns once it is read."""

    t: Annotated[int, msgspec.Meta(ge=0, lt=_END_US)]
    id: str
    user: str | None
    arm: str
    by: str
    p: list[str | int | float | bool | None]
    c: list[float | None]
    rows: Any


class UnreadableError(Exception):
    """A line that is not what it should be."""


class ModelReader:
    """Reads the lines of one model, and makes a table of several."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self._is_number = description.task == "regression"
        self._kinds = [kind for _, kind in description.features]
        self.schema = pa.schema([*FIXED, *((f"{FEATURE}{name}", type_of(kind)) for name, kind in description.features)])
        self._decoders = _decoders(description.features)
        self._decode_any = msgspec.json.Decoder(Entry).decode

    def read(self, line: bytes) -> Entry:
        """Raises UnreadableError."""
        entry = self._read_fast(line) or self._read_any(line)
        if self._is_number:
            entry.p = _read(lambda: list(map(_number, entry.p)))
        num_rows = len(entry.p)
        if len(entry.c) != num_rows:
            if entry.c:
                raise UnreadableError(f"{num_rows} predictions, {len(entry.c)} confidences")
            entry.c = [None] * num_rows
        if len(entry.rows) != num_rows:
            if self._kinds:
                raise UnreadableError(f"{num_rows} predictions of {len(entry.rows)} rows")
            entry.rows = [()] * num_rows
        return entry

    def _read_fast(self, line: bytes) -> Entry | None:
        """Rows are usually as the one before: all objects, or all lists."""
        for place, decode in enumerate(self._decoders):
            try:
                entry: Entry = decode(line)
            except _REFUSALS:
                continue
            if place:
                self._decoders.reverse()
            entry.rows = list(map(msgspec.structs.astuple, entry.rows))
            return entry
        return None

    def _read_any(self, line: bytes) -> Entry:
        """Whatever else the model may have read: numbers as text, rows of both sorts."""
        entry: Entry = _read(lambda: self._decode_any(line))
        entry.rows = _read(lambda: [self._row(row) for row in entry.rows])
        return entry

    def _row(self, row: Any) -> Row:
        if isinstance(row, dict):
            values = [row.get(name) for name, _ in self._description.features]
        elif isinstance(row, list):
            values = row[: len(self._kinds)] + [None] * (len(self._kinds) - len(row))
        else:
            raise TypeError(f"a row is no {type(row).__name__}")
        return tuple(_READERS.get(kind, to_text)(value) for kind, value in zip(self._kinds, values, strict=True))

    def table(self, entries: Sequence[Entry]) -> pa.Table:
        """One row for each prediction."""
        if not any(entry.p for entry in entries):
            return self.schema.empty_table()
        columns = self._request_columns(entries)
        rows = (row for entry in entries for row in entry.rows)
        columns += [_column(values, kind) for values, kind in zip(zip(*rows, strict=True), self._kinds, strict=True)]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _request_columns(self, entries: Sequence[Entry]) -> list[pa.Array]:
        told = self._description
        predictions = [value for entry in entries for value in entry.p]
        values: dict[str, list[Any]] = {
            "time": [entry.t for entry in entries for _ in entry.p],
            "request_id": [entry.id for entry in entries for _ in entry.p],
            "row": [row for entry in entries for row in range(len(entry.p))],
            "user_id": [entry.user for entry in entries for _ in entry.p],
            "variant": [entry.arm for entry in entries for _ in entry.p],
            "assigned_by": [entry.by for entry in entries for _ in entry.p],
            "model_version": [told.version] * len(predictions),
            "fingerprint": [told.fingerprint] * len(predictions),
            "lineage": [told.lineage] * len(predictions),
            "prediction": [None] * len(predictions) if self._is_number else _texts(predictions),
            "value": predictions if self._is_number else [None] * len(predictions),
            "confidence": [value for entry in entries for value in entry.c],
        }
        return [pa.array(values[field.name], field.type) for field in FIXED]


def _decoders(features: Sequence[tuple[str, str]]) -> list[Callable[[bytes], Any]]:
    """For rows that are objects, and for rows that are lists; none for names that msgspec does not take."""
    if not features:
        return []
    fields = [
        (f"f{i}", _TYPES.get(kind, str | int | float | bool | None), None) for i, (_, kind) in enumerate(features)
    ]
    rename = {f"f{i}": name for i, (name, _) in enumerate(features)}
    try:
        by_name = msgspec.defstruct("Row", fields, rename=rename, gc=False)
    except ValueError:
        return []
    in_order = msgspec.defstruct("Row", fields, array_like=True, gc=False)
    entries = [
        msgspec.defstruct("Entry", [("rows", list[row])], bases=(Entry,), gc=False, kw_only=True)  # type: ignore[valid-type]
        for row in (by_name, in_order)
    ]
    return [msgspec.json.Decoder(entry).decode for entry in entries]


def _column(values: Sequence[Any], kind: str) -> pa.Array:
    if kind == "numeric":  # by way of NumPy: half the time
        return pa.array(np.array(values, dtype=np.float64), from_pandas=True)
    if kind == "boolean":
        return pa.array([None if value is None else bool(value) for value in values], pa.bool_())
    return pa.array(_texts(values), pa.string())


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (*_REFUSALS, TypeError, OverflowError) as error:
        raise UnreadableError(str(error) or type(error).__name__) from error


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [value if value is None or type(value) is str else to_text(value) for value in values]


def _number(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    if math.isinf(number):
        raise ValueError("infinite")
    return None if math.isnan(number) else number


def _flag(value: Any) -> bool | None:
    if isinstance(value, str):
        return _FLAGS[value.strip().lower()] if value.strip().lower() in _FLAGS else bool(float(value))
    return None if value is None else bool(float(value))


_READERS: Final[dict[str, Callable[[Any], Any]]] = {"numeric": _number, "boolean": _flag}


def read_description(line: bytes) -> Description | None:
    """Of a line that describes a model; None of any other, also of a damaged one."""
    if not line.startswith(MODEL_START):
        return None
    try:
        return msgspec.json.decode(line, type=Description)
    except _REFUSALS:
        return None


def schema_of(descriptions: Iterable[Description]) -> pa.Schema:
    """Of a file with the requests of all these models."""
    return unified(ModelReader(description).schema for description in descriptions)


class Converter:
    """Makes tables of the lines of one segment, in the order of the lines."""

    def __init__(self) -> None:
        self._models: dict[bytes, ModelReader] = {}

    def convert(self, lines: Iterable[bytes], put_aside: Callable[[bytes], None]) -> list[tuple[str, pa.Table]]:
        """Tables with their UTC hour, such as `2026-11-25T12`; unreadable lines are put aside."""
        groups: dict[tuple[int, bytes], list[Entry]] = {}
        for line in lines:
            if description := read_description(line):
                self._models[str(description.model).encode()] = ModelReader(description)
                continue
            model = line[len(ENTRY_START) : line.find(b",")]
            try:
                entry = self._models[model].read(line)
            except (UnreadableError, KeyError):
                put_aside(line)
            else:
                groups.setdefault((entry.t // _HOUR_US, model), []).append(entry)
        return [(_name(hour), self._models[model].table(entries)) for (hour, model), entries in groups.items()]


def _name(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%dT%H}"
