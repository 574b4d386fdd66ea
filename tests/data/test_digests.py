"""Equal content has equal digests, and every change another one."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from mlops_hydra.data.digests import digest_frame, digest_sample, row_hashes
from mlops_hydra.errors import DataError


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": [1.0, np.nan, 3.0],
            "whole": [1, 2, 3],
            "flag": [True, False, True],
            "text": ["a", None, "c"],
            "date": pd.to_datetime(["2024-01-01", None, "2024-01-03"]),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "object": [1, "1", None],
            "category": pd.Categorical(["x", "y", "x"]),
        }
    )


CHANGES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "a number": lambda f: f.assign(number=[1.0, np.nan, 3.0000000000000004]),
    "a missing number": lambda f: f.assign(number=[1.0, 0.0, 3.0]),
    "a flag": lambda f: f.assign(flag=[True, True, True]),
    "a text beside a missing one": lambda f: f.assign(text=["b", None, "c"]),
    "which text is missing": lambda f: f.assign(text=[None, "a", "c"]),
    "a text for a missing one": lambda f: f.assign(text=["a", "", "c"]),
    "a date": lambda f: f.assign(date=pd.to_datetime(["2024-01-02", None, "2024-01-03"])),
    "a nullable": lambda f: f.assign(nullable=pd.array([1, 2, 3], dtype="Int64")),
    "a type inside": lambda f: f.assign(object=["1", 1, None]),
    "a type": lambda f: f.astype({"whole": "int32"}),
    "a category": lambda f: f.assign(category=pd.Categorical(["y", "x", "x"])),
    "a name": lambda f: f.rename(columns={"flag": "flags"}),
    "the order of columns": lambda f: f[f.columns[::-1]],
    "the order of rows": lambda f: f.iloc[::-1],
    "a row less": lambda f: f.iloc[:-1],
}


def test_equal_tables_have_equal_digests() -> None:
    assert digest_frame(frame()) == digest_frame(frame().set_index(np.array([5, 6, 7])))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_change_of_a_table_changes_its_digest(change: str) -> None:
    assert digest_frame(CHANGES[change](frame())) != digest_frame(frame())


def test_a_change_in_the_last_of_many_rows_counts() -> None:
    many = pd.DataFrame({"text": ["a"] * 20_000, "flag": True})
    other = many.copy()
    other.loc[19_999, "text"] = "b"
    assert digest_frame(many) != digest_frame(other)


SAMPLES = [
    (torch.zeros(2, 3), 1),
    (torch.zeros(3, 2), 1),
    (torch.zeros(2, 3, dtype=torch.float64), 1),
    (torch.zeros(2, 3), True),
    (torch.zeros(2, 3), 1.0),
    (torch.zeros(2, 3), "1"),
    [torch.zeros(2, 3), 1],
    {"x": torch.zeros(2, 3), "y": 1},
    {"x": torch.zeros(2, 3), "z": 1},
    {"x": {"y": 1}},
    {"x": ("y", 1)},
    (b"1", None),
    ("1", None),
    ("ab", "c"),
    ("a", "bc"),
    np.zeros((2, 3)),
    np.array(["a", "b"]),
    np.float32(1),
    torch.ones(2, dtype=torch.bfloat16),
]


def test_samples_that_differ_have_different_digests() -> None:
    assert len({digest_sample(sample) for sample in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("place", range(len(SAMPLES)))
def test_the_same_sample_has_the_same_digest(place: int) -> None:
    assert digest_sample(SAMPLES[place]) == digest_sample(SAMPLES[place])


@pytest.mark.parametrize("strange", [object(), {1, 2}, np.array([object()])])
def test_what_cannot_be_hashed_is_refused_with_what_to_do(strange: object) -> None:
    with pytest.raises(DataError, match=r"cannot be hashed: give it digest\(\) -> str, or set data\.version"):
        digest_sample((strange, 1))


def test_exact_copies_of_a_row_have_the_same_hash_and_others_do_not() -> None:
    features = pd.DataFrame({"a": [1.0, 1.0, 1.0, np.nan, np.nan], "b": ["x", "x", "x", None, None]})
    first, copy, other_target, missing, missing_copy = row_hashes(features, np.array([0, 0, 1, 0, 0])).tolist()
    assert first == copy
    assert missing == missing_copy
    assert len({first, other_target, missing}) == 3
