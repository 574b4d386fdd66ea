"""Values as they come: read as training reads them, and nothing raises."""

import datetime as dt
import decimal
import timeit
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_hydra.config.section import Kind
from mlops_hydra.data.values import read_values
from mlops_hydra.errors import DataError
from mlops_hydra.monitoring.reading import read_categories, read_floats, read_numeric

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["true", " False", "1", "2024-05-31", "2024-05-31T12:00:00+02:00", "nan", "inf", "1_0", b"1"]),
    st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    st.dates(),
    st.sampled_from([10**400, [1], {"a": 1}, 1j, object(), decimal.Decimal("sNaN"), decimal.Decimal("1.5"), (1, 2)]),
)
KINDS: tuple[Kind, ...] = ("numeric", "date", "categorical", "boolean")


@given(st.lists(ANYTHING, max_size=12), st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_every_value_is_read_or_missing_or_unreadable(values: list[Any], kind: Kind) -> None:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    for form in (values, array):
        if kind in ("numeric", "date"):
            read = read_numeric(form, kind)
            assert len(read.values) + read.num_missing + read.num_unreadable == len(values)
            assert not np.isnan(read.values).any()
            assert read.num_infinite == np.isinf(read.values).sum()
        else:
            found = read_categories(form, kind)
            assert found.counts.total() + found.num_missing + found.num_unreadable == len(values)


@given(st.lists(ANYTHING, max_size=6), st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_what_training_reads_is_read_alike(values: list[Any], kind: Kind) -> None:
    try:
        trained = read_values(values, kind, "x").tolist()
    except (DataError, decimal.InvalidOperation):
        return
    if kind in ("numeric", "date"):
        assert np.array_equal(read_floats(values, kind)[0], np.array(trained, dtype=float), equal_nan=True)
        return
    if kind == "boolean":
        trained = [{0.0: "false", 1.0: "true"}.get(value) for value in trained]
    read = read_categories(values, kind)
    assert read.counts == Counter(value for value in trained if value is not None)
    assert read.num_missing == trained.count(None)


@pytest.mark.parametrize(
    ("values", "numbers", "num_missing", "num_unreadable"),
    [
        ([1, "2.5", None, "x", np.inf, "nan"], [1.0, 2.5, np.inf], 2, 1),
        (np.array([1, 2], dtype=np.int8), [1.0, 2.0], 0, 0),
        (np.array([True, False]), [1.0, 0.0], 0, 0),
        (np.array(["1", "zwei"]), [1.0], 0, 1),
        (np.array([1.5, np.nan], dtype=np.float32), [1.5], 1, 0),
        (np.array(["2024-01-01", "NaT"], dtype="datetime64[ns]"), [], 1, 1),
        (np.array([1j, 2]), [], 0, 2),
        (np.array([[1.0], [2.0]]), [], 0, 2),
        ([], [], 0, 0),
    ],
)
def test_numbers(values: Any, numbers: list[float], num_missing: int, num_unreadable: int) -> None:
    read = read_numeric(values, "numeric")
    assert read.values.tolist() == numbers
    assert (read.num_missing, read.num_unreadable) == (num_missing, num_unreadable)


@pytest.mark.parametrize(
    "values",
    [
        ["1970-01-02", "1970-01-02T12:00:00Z", "1970-01-03T01:00:00+01:00", None, "tomorrow", 5],
        [dt.date(1970, 1, 2), dt.datetime(1970, 1, 2, 12, tzinfo=dt.UTC), "1970-01-03", float("nan"), [], "1970-02-30"],
    ],
)
def test_dates_are_days_in_utc(values: list[Any]) -> None:
    read = read_numeric(values, "date")
    assert read.values.tolist() == [1.0, 1.5, 2.0]
    assert (read.num_missing, read.num_unreadable) == (1, 2)


def test_dates_that_repeat_are_read_once_each() -> None:
    values = ["1970-01-02", "soon", None, "1970-01-02T12:00:00Z"] * 50
    for form in (values, np.array(values, dtype=object)):
        read = read_numeric(form, "date")
        assert read.values.tolist() == [1.0, 1.5] * 50
        assert (read.num_missing, read.num_unreadable) == (50, 50)


def test_dates_of_numpy_may_have_any_unit() -> None:
    for unit in ("D", "s", "ns"):
        read = read_numeric(np.array(["1970-01-02", "NaT"], dtype=f"datetime64[{unit}]"), "date")
        assert read.values.tolist() == [1.0]
        assert read.num_missing == 1


@pytest.mark.parametrize(
    "values",
    [
        ["true", "FALSE ", None, "yes"],
        [True, False, float("nan"), 2],
        [1, 0.0, None, []],
        np.array([1.0, 0.0, np.nan, 0.5]),
        ["1", "0", "maybe", None],
    ],
)
def test_booleans_come_as_words_or_numbers(values: Any) -> None:
    read = read_categories(values, "boolean")
    assert read.counts == {"true": 1, "false": 1}
    assert (read.num_missing, read.num_unreadable) == (1, 1)


def test_one_category_has_one_spelling() -> None:
    assert read_categories([5, 5.0, "5", np.int64(5)], "categorical").counts == {"5": 4}
    assert read_categories(np.array([5.0, 5.0, np.nan]), "categorical").counts == {"5": 2}
    assert read_categories(np.array([True, False]), "categorical").counts == {"True": 1, "False": 1}
    assert read_categories([1, True, 1.0, None], "categorical").counts == {"1": 2, "True": 1}
    assert read_categories([{}, "a", None], "categorical").num_unreadable == 1


def test_a_value_costs_at_most_a_tenth_of_a_microsecond() -> None:
    rng = np.random.default_rng(0)
    texts = np.array([f"category {i}" for i in rng.integers(0, 20, 10_000)], dtype=object)
    numbers = rng.normal(size=10_000)
    for read in (lambda: read_categories(texts, "categorical"), lambda: read_floats(numbers, "numeric")):
        assert min(timeit.repeat(read, number=1, repeat=20)) / 10_000 < 100e-9
