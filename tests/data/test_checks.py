"""What cannot be learnt from is told before training, all at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.data.checks import check
from mlops_hydra.data.sources import Source
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import DataError

Opened = Callable[..., Source]
SIZE = 100


def frame(**columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=SIZE), "target": rng.permutation(np.arange(SIZE) % 2)} | columns)


def faults_of(source: Source) -> list[str]:
    with pytest.raises(DataError) as caught:
        source.load()
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def good(opened: Opened) -> Splits:
    return opened(frame(who=np.arange(SIZE)), id="who").load()


def changed(splits: Splits, name: str, **fields: Any) -> Splits:
    table = splits[name]
    assert isinstance(table, Table)
    return replace(splits, **{name: replace(table, **fields)})


def test_good_splits_pass_without_a_word(good: Splits) -> None:
    assert check(good) == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "leak",
    [
        lambda target: target,
        lambda target: 1 - target,
        lambda target: np.where(target == 1, "ill", "healthy"),
        lambda target: target.astype(bool),
        lambda target: np.where(np.arange(SIZE) % 3 == 0, np.nan, target * 5.0),
    ],
    ids=["copied", "inverted", "renamed", "boolean", "with gaps"],
)
def test_a_feature_that_equals_the_classes_is_named(opened: Opened, leak: Callable[..., Any], seed: int) -> None:
    target = np.random.default_rng(seed).integers(0, 2, SIZE)
    faults = faults_of(opened(frame(target=target, leak=leak(target))))
    assert faults == ["column 'leak': equals the target wherever it has a value: add it to data.drop"]


def test_a_leak_is_found_in_rows_sorted_by_class(opened: Opened) -> None:
    size = 3000
    target = np.arange(size) // (size // 2)
    splits_by = {"split": {"duplicates": "count"}}
    table = pd.DataFrame({"x": np.random.default_rng(0).random(size), "leak": target * 2, "target": target})
    assert "column 'leak'" in faults_of(opened(table, **splits_by))[0]


def test_a_feature_that_equals_a_number_is_named_and_one_that_follows_it_is_not(opened: Opened) -> None:
    target = np.random.default_rng(1).normal(size=SIZE)
    assert faults_of(opened(frame(target=target, leak=target)))[0].startswith("column 'leak': equals the target")
    assert opened(frame(target=target, leak=target * 2)).load().task == "regression"


def test_columns_without_a_value_in_training_are_named_all_at_once(opened: Opened) -> None:
    faults = faults_of(opened(frame(empty=np.nan, none=None)))
    assert faults == [
        f"column {name!r}: has no value in the training split: add it to data.drop" for name in ("empty", "none")
    ]


def test_infinite_values_are_named_with_their_row(opened: Opened) -> None:
    values = np.arange(SIZE) / 7
    values[37] = np.inf
    assert faults_of(opened(frame(y=values))) == ["column 'y', row 37: must be finite, got inf"]


def test_faults_of_target_and_columns_are_reported_at_once(opened: Opened) -> None:
    table = frame(span=pd.to_timedelta(np.arange(SIZE), unit="D"), target=[None, *([0, 1] * 49), 1])
    assert [fault.partition(":")[0] for fault in faults_of(opened(table))] == [
        "column 'target', row 0",
        "column 'span'",
    ]


def test_three_rows_are_too_few(opened: Opened) -> None:
    table = pd.DataFrame({"x": [1.0, 2.0, 3.5], "target": [0.1, 0.2, 0.35]})
    assert faults_of(opened(table))[0].startswith("the train split: needs at least 2 row(s)")


def test_a_single_class_is_refused(opened: Opened) -> None:
    assert "nothing to learn" in faults_of(opened(frame(target="yes")))[0]


def test_a_class_with_one_row_trains_and_is_warned_about(opened: Opened) -> None:
    warnings = opened(frame(target=["rare"] + ["a", "b", "b"] * 33)).load().warnings
    assert warnings == tuple(
        f"the {name} split has no row of class rare: its metrics say nothing about it" for name in ("val", "test")
    )


def test_a_class_that_training_lacks_is_named(opened: Opened) -> None:
    words = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    target = ["a", "b"] * 30 + ["a", "b"] * 10 + ["c"] * 20
    faults = faults_of(opened(frame(target=target, s=words), split={"by": "column", "column": "s"}))
    assert faults == ["class 'c': has no row in the training split (20 in test): leave it out, or split by=stratified"]


def test_a_split_that_is_empty_is_named(opened: Opened) -> None:
    faults = faults_of(opened(frame(s=["train"] * 80 + ["val"] * 20), split={"by": "column", "column": "s"}))
    assert faults == ["the test split: needs at least 1 row(s): give more rows, or change data.split, got 0"]


def test_rows_ids_and_groups_in_two_splits_are_named(good: Splits) -> None:
    train, val = good.train, good.val
    assert isinstance(train, Table)
    assert isinstance(val, Table)
    assert train.ids is not None
    assert val.ids is not None
    rows, ids = val.rows.copy(), val.ids.copy()
    rows[0], ids[1] = train.rows[0], train.ids[1]
    both = changed(good, "val", rows=rows, ids=ids, groups=np.full(len(val), 7))
    both = changed(both, "test", groups=np.full(len(both["test"]), 7))  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        check(both)
    assert [str(fault).partition(" (")[0] for fault in caught.value.faults] == [
        f"row {train.rows[0]}: is in train and val",
        f"id {train.ids[1]}: is in train and val",
        "group 7: is in val and test",
    ]


def test_missing_ids_are_no_shared_id(opened: Opened) -> None:
    who = pd.array([None if row % 2 else row for row in range(SIZE)], dtype="Int64")
    assert opened(frame(who=who), id="who").load().warnings == ()


def test_targets_that_are_not_finite_are_named_with_their_row(opened: Opened) -> None:
    splits = opened(frame(target=np.random.default_rng(1).normal(size=SIZE))).load()
    test = splits.test
    assert isinstance(test, Table)
    targets = test.targets.copy()
    targets[3] = np.nan
    with pytest.raises(DataError, match=rf"target, row {test.rows[3]}: must be a finite number \(1 are not\)"):
        check(changed(splits, "test", targets=targets))


def test_lost_rows_are_noticed(good: Splits) -> None:
    test = good.test
    assert isinstance(test, Table)
    with pytest.raises(DataError, match="the test split: lost rows on the way from raw to encoded"):
        check(changed(good, "test", features=test.features[:-1]))


def test_columns_of_little_use_are_warned_about(opened: Opened) -> None:
    rng = np.random.default_rng(0)
    table = frame(
        same=1, word="x", number=rng.permutation(SIZE), note=[f"note {i}" for i in range(SIZE)], few=list("abcde") * 20
    )
    constant, number, note = opened(table).load().warnings
    assert constant == "the same value in every training row: same, word (consider data.drop)"
    assert number == "column 'number' looks like a row number: consider data.drop=[number]"
    assert note.startswith("column 'note' has 60 different texts in 60 training rows: an id or free text?")
