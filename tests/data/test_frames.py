"""What a raw table is like."""

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.data.frames import as_columns, fit_feature, infer_kinds, read_features
from mlops_hydra.errors import DataError

MOMENT = pd.Timestamp("2024-05-31 12:00")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "numeric"),
        ([1.5, None], "numeric"),
        (pd.array([1, None], dtype="Int64"), "numeric"),
        ([1, 2.5, None], "numeric"),
        ([Decimal("1.5"), Decimal(2)], "numeric"),
        ([None, None], "numeric"),
        ([True, False], "boolean"),
        ([True, None, False], "boolean"),
        (pd.array([True, None], dtype="boolean"), "boolean"),
        (["a", None], "categorical"),
        (["a", 1], "categorical"),
        (pd.Categorical([1, 2]), "categorical"),
        ([MOMENT, None], "date"),
        ([MOMENT.tz_localize("Europe/Vienna")], "date"),
        ([dt.date(2024, 1, 1), None], "date"),
        (["2024-01-01", None, "2024-05-31 12:00"], "date"),
        (["2024-01-01", "2024-13-01"], "categorical"),
        (["2024-01-01", "soon"], "categorical"),
    ],
)
def test_the_kind_follows_from_the_values(values: Any, kind: str) -> None:
    assert infer_kinds(pd.DataFrame({"x": values}), {}) == {"x": kind}


def test_a_given_kind_wins() -> None:
    assert infer_kinds(pd.DataFrame({"zip": [1010, 8010]}), {"zip": "categorical"}) == {"zip": "categorical"}


def test_all_columns_that_are_no_features_are_named_at_once() -> None:
    frame = pd.DataFrame({"span": [dt.timedelta(1)], "ok": [1], "z": [1j]})
    with pytest.raises(DataError) as caught:
        infer_kinds(frame, {})
    assert [fault.path for fault in caught.value.faults] == ["column 'span'", "column 'z'"]
    assert "data.drop" in str(caught.value)


def test_arrays_keep_what_pandas_holds() -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None], dtype="Int64"),
            "flag": pd.array([True, None], dtype="boolean"),
            "text": ["a", None],
            "when": [MOMENT.tz_localize("Europe/Vienna"), None],
        }
    )
    columns = as_columns(frame)
    np.testing.assert_array_equal(columns["whole"], [1.0, np.nan])
    assert columns["flag"].tolist() == [True, None]
    assert columns["text"].tolist() == ["a", None]
    assert columns["when"][0] == np.datetime64("2024-05-31T10:00")
    assert np.isnat(columns["when"][1])


def test_values_that_do_not_fit_a_given_kind_are_named_with_their_row() -> None:
    frame = pd.DataFrame({"a": ["1", "2", "drei"], "b": [0, 1, 2], "c": ["1", "2", "3"]})
    with pytest.raises(DataError) as caught:
        read_features(frame, {"a": "numeric", "b": "boolean", "c": "numeric"})
    assert [fault.path for fault in caught.value.faults] == ["column 'a', row 2", "column 'b', row 2"]


def test_lists_in_cells_are_refused() -> None:
    with pytest.raises(DataError, match="column 'tags', row 1: must be text, a number or a boolean"):
        read_features(pd.DataFrame({"tags": ["a", ["b", "c"]]}), {"tags": "categorical"})


def test_a_feature_has_the_range_and_missing_rate_of_its_values() -> None:
    feature = fit_feature("x", "numeric", np.array([3.0, np.nan, -1.0, 2.0]), max_categories=9)
    assert (feature.minimum, feature.maximum, feature.missing_rate) == (-1.0, 3.0, 0.25)


def test_the_most_frequent_categories_are_kept_in_sorted_order() -> None:
    values = np.array(["b", "c", "c", "a", "d", "d", None], dtype=object)
    feature = fit_feature("x", "categorical", values, max_categories=3)
    assert feature.categories == ("a", "c", "d")
    assert feature.missing_rate == pytest.approx(1 / 7)
