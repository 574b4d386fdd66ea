"""What two runs can be compared by: rows, columns, ranges, of every kind of data."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from mlops_hydra.atomic import json_text
from mlops_hydra.data.splits import SPLITS
from mlops_hydra.data.summary import _column, summarise


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": [1.5, np.nan, *range(28)],
            "whole": pd.array([None, *range(29)], dtype="Int64"),
            "flag": [True, False] * 15,
            "maybe": pd.array([True, None, False] * 10, dtype="boolean"),
            "text": ["x", None, "y"] * 10,
            "date": pd.date_range("2024-01-01", periods=30, tz="UTC"),
            "many": [f"v{number:02d}" for number in range(30)],
            "target": ["no", "yes", "no"] * 10,
        }
    )


def test_a_table_is_summed_up_column_by_column_over_all_its_rows(opened):
    summary = summarise(opened(table()).load())
    assert summary["task"] == "binary" and summary["classes"] == ["no", "yes"]
    assert sum(summary["rows"].values()) == 30 and list(summary["rows"]) == ["train", "val", "test"]
    columns = summary["columns"]
    assert list(columns) == [name for name in table().columns if name != "target"]
    assert columns["number"] == {"dtype": "float64", "missing": 1, "min": 0, "max": 27, "mean": (1.5 + 378) / 29}
    assert columns["whole"] == {"dtype": "Int64", "missing": 1, "min": 0, "max": 28, "mean": 14}
    assert columns["flag"] == {"dtype": "bool", "missing": 0, "distinct": 2, "top": {"False": 15, "True": 15}}
    assert columns["maybe"]["missing"] == 10 and columns["maybe"]["top"] == {"False": 10, "True": 10}
    assert columns["text"]["missing"] == 10 and columns["text"]["top"] == {"x": 10, "y": 10}
    assert columns["date"]["min"].startswith("2024-01-01") and columns["date"]["max"].startswith("2024-01-30")
    assert columns["many"]["distinct"] == 30 and list(columns["many"]["top"]) == [f"v{n:02d}" for n in range(10)]
    assert summary["target"]["top"] == {"no": 20, "yes": 10}
    assert json.loads(json_text(summary)) == json.loads(json.dumps(summary))


def test_the_order_of_rows_changes_nothing(opened):
    shuffled = table().sample(frac=1, random_state=1)
    one, other = (summarise(opened(frame).load()) for frame in (table(), shuffled))
    for name, column in one["columns"].items():
        assert column.get("mean", 0) == pytest.approx(other["columns"][name].get("mean", 0))
        assert column | {"mean": 0} == other["columns"][name] | {"mean": 0}
    assert one["target"] == other["target"]


def test_a_change_shows_in_its_own_column_alone(opened):
    changed = table().assign(number=lambda frame: frame["number"] + 100)
    one, other = (summarise(opened(frame).load())["columns"] for frame in (table(), changed))
    assert [name for name in one if one[name] != other[name]] == ["number"]
    assert other["number"]["min"] == 100


def test_an_empty_column_and_infinities_are_no_error(opened):
    frame = table().assign(empty=np.nan, wide=[np.inf, *range(29)]).astype({"empty": float})
    assert _column(frame["empty"]) == {"dtype": "float64", "missing": 30}
    assert json.loads(json_text(_column(frame["wide"])))["max"] is None
    assert _column(pd.Series([None, None], dtype="datetime64[ns]")) == {"dtype": "datetime64[ns]", "missing": 2}


def test_a_regression_has_the_range_of_its_target(opened):
    frame = table().assign(target=np.arange(30) / 7)
    summary = summarise(opened(frame).load())
    assert summary["classes"] == [] and summary["task"] == "regression"
    assert (summary["target"]["min"], summary["target"]["max"]) == (0, pytest.approx(29 / 7))


def test_datasets_have_rows_and_targets_but_no_columns(opened):
    samples = TensorDataset(torch.arange(60.0).reshape(30, 2), torch.arange(30) % 3)
    summary = summarise(opened(samples, target=None).load())
    assert sum(summary["rows"].values()) == 30 and "columns" not in summary
    assert summary["target"]["top"] == {"0": 10, "1": 10, "2": 10}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0), (torch.ones(2), 1)])


def test_a_stream_has_neither(opened):
    splits = opened({name: Stream() for name in SPLITS}, target=None, version="1", classes=(0, 1)).load()
    summary = summarise(splits)
    assert summary["rows"] == {"train": None, "val": None, "test": None}
    assert "columns" not in summary and "target" not in summary
