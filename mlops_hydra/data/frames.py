"""What a raw table is like: the kind of each column, and the feature schema that the training rows show.

Between reading a table and encoding it. Kinds follow from all rows, everything else from the training rows alone.
Not here: reading files, splitting rows, turning values into numbers (`encoding.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_hydra.config.section import Kind
from mlops_hydra.data.encoding import Feature
from mlops_hydra.data.values import read_dates, read_values
from mlops_hydra.errors import DataError, Fault

_ISO_DATE: Final = r"\d{4}-\d{2}-\d{2}([T ].*)?"
_KINDS: Final[dict[str, Kind]] = {
    "boolean": "boolean",
    "integer": "numeric",
    "floating": "numeric",
    "mixed-integer-float": "numeric",
    "decimal": "numeric",
    "empty": "numeric",
    "datetime64": "date",
    "datetime": "date",
    "date": "date",
    "string": "categorical",
    "categorical": "categorical",
    "mixed-integer": "categorical",
    "mixed": "categorical",
}
"""pandas' word for what a column holds (missing values apart), and ours."""


def as_columns(frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """NumPy arrays of a frame's columns: numbers, booleans and dates natively, everything else as Python objects."""
    return {str(name): as_array(series) for name, series in frame.items()}


def as_array(series: "pd.Series[Any]") -> NDArray[Any]:
    """One column; missing values of columns without NaN or NaT become None."""
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biufM":
        return np.asarray(series)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return np.asarray(series.dt.tz_convert("UTC").dt.tz_localize(None))
    is_number = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)
    if is_number and not pd.api.types.is_bool_dtype(dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(dtype, pd.StringDtype):
        untyped: Any = series  # the stubs know no missing value but texts and numbers
        return np.asarray(untyped.to_numpy(dtype=object, na_value=None))
    objects = series.astype(object)
    return objects.where(objects.notna(), None).to_numpy(dtype=object)


def infer_kinds(frame: pd.DataFrame, given: Mapping[str, Kind]) -> dict[str, Kind]:
    """The kind of each column: as given, else from its values.

    Raises:
        DataError: columns hold something else, such as lists or durations; one fault for each.
    """
    words = {name: pd.api.types.infer_dtype(frame[name], skipna=True) for name in frame.columns if name not in given}
    rule = "holds {} values, which are no feature: convert them, or add the column to data.drop"
    faults = [Fault(f"column {name!r}", rule.format(word)) for name, word in words.items() if word not in _KINDS]
    if faults:
        raise DataError(faults)
    dates = {name for name, word in words.items() if word == "string" and _are_dates(frame[name])}
    inferred: dict[str, Kind] = {name: "date" if name in dates else _KINDS[word] for name, word in words.items()}
    return {name: given[name] if name in given else inferred[name] for name in frame.columns}


def _are_dates(series: "pd.Series[Any]") -> bool:
    texts = series.dropna()
    if not texts.iloc[:20].str.fullmatch(_ISO_DATE).all():
        return False
    try:
        read_dates(texts.to_list(), str(series.name))
    except DataError:
        return False
    return True


def read_features(frame: pd.DataFrame, kinds: Mapping[str, Kind]) -> dict[str, NDArray[Any]]:
    """Every column as its kind (see `read_values`).

    Raises:
        DataError: values that cannot be read as their kind; one fault for each such column.
    """
    values: dict[str, NDArray[Any]] = {}
    faults: list[Fault] = []
    for name in frame.columns:
        try:
            values[name] = read_values(as_array(frame[name]), kinds[name], name)
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    return values


def fit_feature(name: str, kind: Kind, values: NDArray[Any], *, max_categories: int) -> Feature:
    """What the values [n] of a column, training rows only, show of it; the most frequent categories are kept."""
    if kind == "categorical":
        known = [value for value in values if value is not None]
        return Feature(name, kind, _categories(known, max_categories), missing_rate=_rate(len(known), len(values)))
    known_numbers = values[~np.isnan(values)]
    rate = _rate(len(known_numbers), len(values))
    if len(known_numbers) == 0:
        return Feature(name, kind, missing_rate=rate)
    return Feature(name, kind, (), float(known_numbers.min()), float(known_numbers.max()), rate)


def _rate(num_known: int, num_rows: int) -> float:
    return 1 - num_known / num_rows if num_rows else 0.0


def _categories(known: Sequence[str], max_categories: int) -> tuple[str, ...]:
    """The most frequent ones, in sorted order; ties go to the first in sorted order."""
    counted = sorted(Counter(known).items(), key=lambda item: (-item[1], item[0]))
    return tuple(sorted(text for text, _ in counted[:max_categories]))
