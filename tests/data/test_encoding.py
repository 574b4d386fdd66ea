"""Raw rows to numbers and codes."""

import datetime as dt
import math
import timeit
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.data.encoding import DATE_PARTS, Feature, FeatureSchema, encode
from mlops_hydra.errors import DataError

SCHEMA = FeatureSchema(
    (
        Feature("n", "numeric", (), -1.0, 2.0, 0.1),
        Feature("c", "categorical", ("5", "rot", "ö")),
        Feature("b", "boolean", (), 0.0, 1.0),
        Feature("d", "date", (), 19_000.0, 20_000.0),
    ),
    target="y",
    task="binary",
    classes=("no", "yes"),
)

values = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**60), 2**60) | st.floats(allow_infinity=False),
        "c": st.none() | st.sampled_from(["rot", "ö", "blau", "", 5, 5.0, 7.5, "5", math.nan]),
        "b": st.none() | st.booleans() | st.sampled_from([0, 1, 0.0, 1.0, "true", "False", math.nan]),
        "d": st.none() | st.dates().map(str) | st.dates() | st.datetimes(),
    }
)


def row(**changes: Any) -> dict[str, list[Any]]:
    return {name: [value] for name, value in ({"n": 1.5, "c": "rot", "b": True, "d": "2024-05-31"} | changes).items()}


def test_columns_are_named_in_the_order_of_the_features() -> None:
    assert SCHEMA.numeric_names == ("n", "b", *(f"d.{part}" for part in DATE_PARTS))
    assert SCHEMA.categorical_names == ("c",)


def test_a_row_becomes_numbers_and_codes() -> None:
    encoded = encode(row(), SCHEMA)
    weekday = dt.date(2024, 5, 31).weekday()
    day_of_year = dt.date(2024, 5, 31).timetuple().tm_yday - 1
    angles = [2 * math.pi * weekday / 7, 2 * math.pi * day_of_year / 365.2425]
    parts = [(dt.date(2024, 5, 31) - dt.date(1970, 1, 1)).days - 19_000]
    parts += [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
    np.testing.assert_allclose(encoded.numeric, [[1.5, 1.0, *parts]], rtol=1e-12)
    assert encoded.codes.tolist() == [[3]]
    assert encoded.numeric.dtype == np.float64
    assert encoded.codes.dtype == np.int64


@given(st.lists(values, min_size=1, max_size=8))
def test_a_row_alone_is_encoded_as_among_others(rows: list[dict[str, Any]]) -> None:
    together = encode({name: [r[name] for r in rows] for name in SCHEMA.names}, SCHEMA)
    alone = [encode({name: [r[name]] for name in SCHEMA.names}, SCHEMA) for r in rows]
    np.testing.assert_array_equal(together.numeric, np.concatenate([one.numeric for one in alone]))
    np.testing.assert_array_equal(together.codes, np.concatenate([one.codes for one in alone]))


@given(st.lists(values, max_size=8))
def test_lists_and_object_arrays_are_encoded_alike(rows: list[dict[str, Any]]) -> None:
    lists = {name: [r[name] for r in rows] for name in SCHEMA.names}
    arrays = {}
    for name, column in lists.items():
        arrays[name] = np.empty(len(column), dtype=object)
        arrays[name][:] = column
    np.testing.assert_array_equal(encode(lists, SCHEMA).numeric, encode(arrays, SCHEMA).numeric)
    np.testing.assert_array_equal(encode(lists, SCHEMA).codes, encode(arrays, SCHEMA).codes)


def test_missing_values_are_nan_and_code_0() -> None:
    encoded = encode(row(n=None, c=None, b=math.nan, d=None), SCHEMA)
    assert np.isnan(encoded.numeric).all()
    assert encoded.codes.tolist() == [[0]]


@pytest.mark.parametrize(("value", "code"), [("5", 2), (5, 2), (5.0, 2), (np.int32(5), 2), ("blau", 1), (True, 1)])
def test_a_category_has_one_code_however_it_is_spelt(value: object, code: int) -> None:
    assert encode(row(c=value), SCHEMA).codes.tolist() == [[code]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": "viel"}, "column 'n', row 0: must be a number, got 'viel'"),
        ({"n": [1]}, "column 'n', row 0: must be a number"),
        ({"n": math.inf}, "column 'n', row 0: must be finite"),
        ({"b": 2}, "column 'b', row 0: must be true or false, got 2"),
        ({"b": "vielleicht"}, "column 'b', row 0: must be true or false"),
        ({"c": ["rot"]}, "column 'c', row 0: must be text"),
        ({"d": "31.05.2024"}, "column 'd', row 0: must be a date such as 2024-05-31"),
        ({"d": 20240531}, "column 'd', row 0: must be a date"),
    ],
)
def test_an_unreadable_value_is_named_with_row_and_column(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        encode(row(**changes), SCHEMA)
    assert str(caught.value).startswith(message)


def test_faults_of_all_columns_are_reported_at_once() -> None:
    with pytest.raises(DataError) as caught:
        encode(row(n="x", b="y", d="z", c={}), SCHEMA)
    assert {fault.path for fault in caught.value.faults} == {f"column {name!r}, row 0" for name in "nbdc"}


def test_a_missing_column_is_named_with_its_nearest() -> None:
    columns = row()
    columns["nn"] = columns.pop("n")
    with pytest.raises(DataError, match=r"column 'n': is missing\. Did you mean nn\?"):
        encode(columns, SCHEMA)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="column 'c': must have 1 rows, as many as column 'n', got 2"):
        encode(row() | {"c": ["rot", "rot"]}, SCHEMA)


def test_other_columns_are_ignored() -> None:
    assert len(encode(row() | {"extra": [1, 2, 3]}, SCHEMA)) == 1


def test_no_rows_give_empty_arrays_of_the_right_width() -> None:
    encoded = encode({name: [] for name in SCHEMA.names}, SCHEMA)
    assert encoded.numeric.shape == (0, 7)
    assert encoded.codes.shape == (0, 1)


def test_times_with_an_offset_are_the_same_moment_in_utc() -> None:
    east, utc = (encode(row(d=text), SCHEMA).numeric for text in ("2024-05-31T01:00:00+02:00", "2024-05-30T23:00:00Z"))
    np.testing.assert_array_equal(east, utc)


names = st.text(min_size=1, max_size=5)
features = st.builds(
    Feature,
    names,
    st.sampled_from(["numeric", "boolean", "categorical", "date"]),
    st.lists(st.text(max_size=4), max_size=3).map(tuple),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 1),
)


@given(
    st.builds(
        FeatureSchema,
        st.lists(features, max_size=4).map(tuple),
        st.none() | names,
        st.sampled_from(["binary", "multiclass", "regression"]),
        st.lists(st.text(max_size=3) | st.integers() | st.booleans(), max_size=3).map(tuple),
        st.none() | st.just((1, 8, 8)),
    )
)
def test_a_schema_survives_json(schema: FeatureSchema) -> None:
    again = FeatureSchema.from_json(schema.to_json())
    assert again == schema
    assert list(map(type, again.classes)) == list(map(type, schema.classes))


def test_one_row_of_thirty_numbers_takes_microseconds() -> None:
    schema = FeatureSchema(tuple(Feature(f"f{i}", "numeric") for i in range(30)), "y", "regression", ())
    columns = {f"f{i}": [i / 7] for i in range(30)}
    best = min(timeit.repeat(lambda: encode(columns, schema), number=100, repeat=5)) / 100
    assert best < 500e-6
