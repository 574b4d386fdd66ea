"""Which rows train, which validate, which test."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlops_hydra.config.schema import SplitConfig
from mlops_hydra.data.splits import TEST, TRAIN, VAL, assign
from mlops_hydra.errors import DataError

DEFAULTS: dict[str, Any] = {
    "by": "random",
    "column": None,
    "val": 0.2,
    "test": 0.2,
    "num_folds": None,
    "fold": None,
    "seed": 0,
    "duplicates": "together",
}


def config(**fields: Any) -> SplitConfig:
    return SplitConfig(**DEFAULTS | fields)


seeds = st.integers(0, 2**63 - 1)
shares = st.floats(0.05, 0.45)


def counts(split: NDArray[np.int8]) -> list[int]:
    return np.bincount(split, minlength=3).tolist()


@given(st.integers(3, 500), shares, shares, seeds)
def test_random_splits_have_their_share_to_the_row(num_rows: int, val: float, test: float, seed: int) -> None:
    split = assign(config(val=val, test=test, seed=seed), num_rows=num_rows)
    train, in_val, in_test = counts(split)
    assert in_val in (max(1, round(num_rows * val)), max(1, min(round(num_rows * val), num_rows - 1 - in_test)))
    assert in_test == max(1, round(num_rows * test))
    assert train >= 1


@given(st.integers(1, 200), seeds)
def test_the_same_seed_gives_the_same_split(num_rows: int, seed: int) -> None:
    labels = np.arange(num_rows) % 3
    once, again = (assign(config(by="auto", seed=seed), num_rows=num_rows, labels=labels) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_another_seed_gives_another_split() -> None:
    splits = {assign(config(seed=seed), num_rows=100).tobytes() for seed in range(20)}
    assert len(splits) == 20


@given(st.lists(st.integers(0, 4), min_size=20, max_size=300), shares, shares, seeds)
def test_stratified_splits_have_each_class_in_proportion(labels: list[int], val: float, test: float, seed: int) -> None:
    codes = np.array(labels)
    split = assign(config(by="stratified", val=val, test=test, seed=seed), num_rows=len(codes), labels=codes)
    for code in np.unique(codes):
        train, in_val, in_test = counts(split[codes == code])
        size = train + in_val + in_test
        assert train >= 1
        assert abs(in_test - size * test) <= 1
        assert abs(in_val - size * val) <= 2


def test_auto_is_stratified_for_classes_and_random_for_numbers() -> None:
    labels = np.arange(50) % 2
    auto = assign(config(by="auto"), num_rows=50, labels=labels)
    np.testing.assert_array_equal(auto, assign(config(by="stratified"), num_rows=50, labels=labels))
    np.testing.assert_array_equal(assign(config(by="auto"), num_rows=50), assign(config(by="random"), num_rows=50))


def test_numbers_cannot_be_stratified() -> None:
    with pytest.raises(DataError, match=r"data\.split\.by: regression has no classes"):
        assign(config(by="stratified"), num_rows=50)


@given(st.lists(st.integers(0, 8), min_size=12, max_size=200), seeds, st.sampled_from(["random", "stratified"]))
def test_linked_rows_are_never_torn_apart(groups: list[int], seed: int, by: str) -> None:
    linked = np.array(groups)
    split = assign(config(by=by, seed=seed), num_rows=len(linked), labels=linked % 2, linked=linked)
    for group in np.unique(linked):
        assert len(set(split[linked == group].tolist())) == 1


@given(st.lists(st.integers(0, 50), min_size=3, max_size=200), seeds)
def test_three_groups_are_enough_for_three_splits(groups: list[int], seed: int) -> None:
    linked = np.array([*groups, 100, 101, 102])
    split = assign(config(by="group", column="g", seed=seed), num_rows=len(linked), column=linked, linked=linked)
    assert min(counts(split)) > 0


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=200))
def test_by_time_the_past_trains_and_the_future_tests(times: list[int]) -> None:
    column = np.array([*times, 2000, 3000])
    split = assign(config(by="time", column="t"), num_rows=len(column), column=column)
    assert column[split == TRAIN].max() < column[split == VAL].min()
    assert column[split == VAL].max() < column[split == TEST].min()


def test_a_column_says_train_val_or_test() -> None:
    words = np.array(["test", "train", "val", "train"], dtype=object)
    assert assign(config(by="column", column="s"), num_rows=4, column=words).tolist() == [TEST, TRAIN, VAL, TRAIN]
    words[2] = "vall"
    with pytest.raises(DataError, match=r"row 2: must be train, val or test \(so for 1 of 4 rows\), got 'vall'.*val\?"):
        assign(config(by="column", column="s"), num_rows=4, column=words)


@given(st.integers(10, 150), st.integers(2, 7), seeds, st.booleans())
def test_the_test_folds_cover_every_row_once(num_rows: int, num_folds: int, seed: int, linked: bool) -> None:
    labels = np.arange(num_rows) % 3
    keys = np.arange(num_rows) // 2 if linked else None
    splits = [
        assign(
            config(by="stratified", num_folds=num_folds, fold=fold, seed=seed),
            num_rows=num_rows,
            labels=labels,
            linked=keys,
        )
        for fold in range(num_folds)
    ]
    assert (np.sum([split == TEST for split in splits], axis=0) == 1).all()


def test_folds_are_alike_and_the_rest_has_its_share_of_validation() -> None:
    labels = (np.arange(100) < 30).astype(np.int64)
    for fold in range(5):
        split = assign(config(by="stratified", num_folds=5, fold=fold), num_rows=100, labels=labels)
        assert counts(split) == [64, 16, 20]
        assert labels[split == TEST].sum() == 6


def test_group_folds_keep_groups_together() -> None:
    groups = np.repeat(np.arange(11), 7)
    for fold in range(4):
        split = assign(config(by="group", column="g", num_folds=4, fold=fold), num_rows=77, linked=groups)
        assert not set(groups[split == TEST]) & set(groups[split != TEST])


def test_a_class_with_one_row_trains() -> None:
    labels = np.array([0] * 20 + [1])
    for seed in range(20):
        assert assign(config(by="stratified", seed=seed), num_rows=21, labels=labels)[-1] == TRAIN


def test_a_configuration_splits_alike_through_any_call(data_config: Callable[..., Any]) -> None:
    nested = data_config(split={"by": "random"}).split
    np.testing.assert_array_equal(assign(nested, num_rows=30), assign(config(), num_rows=30))
