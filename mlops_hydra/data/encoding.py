"""Raw rows to numbers and codes, by a feature schema. NumPy only: training, prediction and serving share this file.

The way of a row: `encode` (here; text stays outside of the model) -> `FeatureTransform` (part of the model).
Not here: imputing, scaling, one-hot, and anything that is fitted; `frames.py` fits the schema.

Shapes: n rows, d numeric columns (a date feature has five), c categorical columns.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import starmap
from typing import Any, Final

import numpy as np

from mlops_hydra.config.section import Kind, Task
from mlops_hydra.data.values import FloatArray, IntArray, Values, read_values, to_text
from mlops_hydra.errors import DataError, Fault, nearest

MISSING: Final = 0
UNKNOWN: Final = 1
FIRST_CATEGORY: Final = 2
"""Codes of a categorical column: missing, a category that training did not see, then the categories in order."""

DATE_PARTS: Final = ("days", "weekday_sin", "weekday_cos", "year_sin", "year_cos")
"""A date as numbers: days since the earliest training date, and its place in the week and in the year."""

ClassLabel = str | int | bool


@dataclass(frozen=True, slots=True)
class Feature:
    """A raw column as the training split showed it; a date's range is in days since 1970-01-01."""

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    missing_rate: float = 0.0


@dataclass(frozen=True)
class FeatureSchema:
    """The columns that a model reads, in their order, and what it predicts."""

    features: tuple[Feature, ...]
    target: str | None
    task: Task
    classes: tuple[ClassLabel, ...]
    image_shape: tuple[int, int, int] | None = None

    @cached_property
    def numeric_features(self) -> tuple[Feature, ...]:
        """The feature behind each of the d numeric columns."""
        return tuple(f for f in self.features if f.kind != "categorical" for _ in numeric_parts(f))

    @cached_property
    def numeric_names(self) -> tuple[str, ...]:
        """Names of the d numeric columns; those of a date are `<feature>.<part>`."""
        return tuple(name for f in self.features if f.kind != "categorical" for name in numeric_parts(f))

    @cached_property
    def numeric_places(self) -> dict[str, slice]:
        """Where the columns of each feature stand among the d numeric ones."""
        names = [f.name for f in self.numeric_features]
        return {name: slice(names.index(name), names.index(name) + names.count(name)) for name in dict.fromkeys(names)}

    @cached_property
    def categorical_features(self) -> tuple[Feature, ...]:
        """The feature behind each of the c categorical columns."""
        return tuple(f for f in self.features if f.kind == "categorical")

    @cached_property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the c categorical columns."""
        return tuple(f.name for f in self.categorical_features)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the raw columns."""
        return tuple(f.name for f in self.features)

    @cached_property
    def codes_by_text(self) -> tuple[dict[object, int], ...]:
        """For each categorical column, its code of each category; None is missing."""
        return tuple(
            {None: MISSING, **{text: FIRST_CATEGORY + i for i, text in enumerate(f.categories)}}
            for f in self.categorical_features
        )

    @cached_property
    def _plain(self) -> tuple[tuple[str, ...], list[int], list[int]]:
        """The k features that are one number each: names, places among the d columns; and which of the k are flags."""
        chosen = [(i, f) for i, f in enumerate(self.numeric_features) if f.kind != "date"]
        flags = [place for place, (_, f) in enumerate(chosen) if f.kind == "boolean"]
        return tuple(f.name for _, f in chosen), [i for i, _ in chosen], flags

    @cached_property
    def _packed_row(self) -> struct.Struct:
        """The bytes of a row of numbers."""
        return struct.Struct(f"{len(self.features)}d")

    def to_json(self) -> str:
        """JSON text; `from_json` gives an equal schema back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "FeatureSchema":
        """The schema that `to_json` wrote."""
        fields = json.loads(text)
        features = tuple(Feature(**f | {"categories": tuple(f["categories"])}) for f in fields.pop("features"))
        shape = fields.pop("image_shape")
        classes = tuple(fields.pop("classes"))
        return cls(features=features, classes=classes, image_shape=tuple(shape) if shape else None, **fields)


@dataclass(frozen=True, slots=True)
class Encoded:
    """numeric: float64 [n, d], NaN where missing. codes: int64 [n, c]."""

    numeric: FloatArray
    codes: IntArray

    def __len__(self) -> int:
        return len(self.numeric)


def numeric_parts(feature: Feature) -> tuple[str, ...]:
    """Names of the numeric columns of a feature that is not categorical."""
    if feature.kind == "date":
        return tuple(f"{feature.name}.{part}" for part in DATE_PARTS)
    return (feature.name,)


def encode(columns: Mapping[str, Values], schema: FeatureSchema) -> Encoded:
    """The features of the schema as numbers and codes; other columns are ignored.

    Args:
        columns: each n values: lists of plain Python values, or NumPy arrays.

    Raises:
        DataError: a column is missing, columns differ in length, or a value cannot be read as its kind. One fault
            for each such column, with its first such row (from 0).
    """
    num_rows = _count_rows(columns, schema)
    numeric = np.empty((num_rows, len(schema.numeric_names)))
    codes = np.empty((num_rows, len(schema.categorical_names)), dtype=np.int64)
    done = _encode_plain(columns, schema, numeric)
    faults: list[Fault] = []
    for feature in schema.features:
        try:
            if feature.kind == "categorical":
                place = schema.categorical_names.index(feature.name)
                codes[:, place] = _encode_categories(columns[feature.name], schema.codes_by_text[place], feature.name)
            elif not done or feature.kind == "date":
                numeric[:, schema.numeric_places[feature.name]] = _encode_numbers(columns[feature.name], feature)
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    return Encoded(numeric, codes)


def encode_rows(rows: Sequence[Sequence[object]], schema: FeatureSchema) -> Encoded:
    """As `encode`, of rows: each has a value for each feature, in the order of the schema, as JSON gives them: finite.

    Raises:
        DataError: a value cannot be read as its kind.
    """
    names, _, flags = schema._plain
    if len(names) == len(schema.features):  # numbers and flags only: their block is all there is
        block = _packed(rows, schema._packed_row)
        if block is None:
            block = _as_block(rows)
        if block is not None and _are_flags(block.T, flags):
            return Encoded(block, np.empty((len(rows), 0), dtype=np.int64))
    columns = dict(zip(schema.names, map(list, zip(*rows, strict=True)), strict=True))
    return encode(columns, schema)


def _count_rows(columns: Mapping[str, Values], schema: FeatureSchema) -> int:
    missing = [name for name in schema.names if name not in columns]
    if missing:
        raise DataError([Fault(f"column {name!r}", "is missing", None, nearest(name, columns)) for name in missing])
    lengths = {name: len(columns[name]) for name in schema.names}
    num_rows = next(iter(lengths.values()), 0)
    uneven = [name for name, length in lengths.items() if length != num_rows]
    if uneven:
        rule = f"must have {num_rows} rows, as many as column {schema.names[0]!r}"
        raise DataError([Fault(f"column {name!r}", rule, lengths[name]) for name in uneven])
    return num_rows


def _encode_plain(columns: Mapping[str, Values], schema: FeatureSchema, numeric: FloatArray) -> bool:
    """All numbers and flags of lists in one NumPy call: a row in 20 us. False where a value needs a closer look."""
    names, places, flags = schema._plain
    lists = [columns[name] for name in names]
    if not lists or not all(type(values) is list for values in lists):
        return False
    block = _as_block(lists)
    if block is None or np.isinf(block).any() or not _are_flags(block, flags):
        return False
    numeric[:, places] = block.T
    return True


def _packed(rows: Sequence[Sequence[Any]], packed_row: struct.Struct) -> FloatArray | None:
    """Rows of numbers as one array [n, k], three times as fast as NumPy; None where a value is missing, or is none."""
    try:
        content = b"".join(starmap(packed_row.pack, rows))
    except (struct.error, TypeError, OverflowError):
        return None
    return np.frombuffer(content, dtype=np.float64).reshape(len(rows), -1)


def _as_block(lists: Sequence[Any]) -> FloatArray | None:
    """Lists of numbers as one array, None as NaN; None where that is not what they are."""
    try:
        block = np.array(lists, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return block if block.ndim == 2 else None


def _are_flags(block: FloatArray, flags: list[int]) -> bool:
    """Whether these of [k, n] are 0, 1 or missing."""
    if not flags:
        return True
    values = block[flags]
    return bool(((values == 0) | (values == 1) | np.isnan(values)).all())


def _encode_numbers(values: Values, feature: Feature) -> FloatArray:
    numbers = read_values(values, feature.kind, feature.name)
    return date_parts(numbers, feature) if feature.kind == "date" else numbers[:, None]


def date_parts(days: FloatArray, feature: Feature) -> FloatArray:
    """Days since 1970-01-01 [n] to the `DATE_PARTS` [n, 5]."""
    whole_days = np.floor(np.nan_to_num(days)).astype(np.int64).astype("datetime64[D]")
    weekday = (whole_days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    day_of_year = (whole_days - whole_days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64)
    week, year = 2 * np.pi * weekday / 7, 2 * np.pi * day_of_year / 365.2425
    parts = [days - (feature.minimum or 0.0), np.sin(week), np.cos(week), np.sin(year), np.cos(year)]
    return np.asarray(np.where(np.isnan(days)[:, None], np.nan, np.stack(parts, axis=1)))


def _encode_categories(values: Values, lookup: Mapping[object, int], name: str) -> IntArray:
    plain = values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind != "M" else values
    try:
        codes = [lookup.get(value, -1) for value in plain]
        if -1 in codes:
            codes = [
                lookup.get(to_text(v), UNKNOWN) if code < 0 else code for v, code in zip(plain, codes, strict=True)
            ]
    except TypeError:  # a list or a mapping
        codes = [lookup.get(text, UNKNOWN) for text in read_values(values, "categorical", name)]
    return np.array(codes, dtype=np.int64)
