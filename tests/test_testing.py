"""Assertions for a user's own tests: they pass what is right, and say what is wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.data.encoding import Feature, FeatureSchema
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import UsageError
from mlops_hydra.testing import assert_beats_baseline, assert_no_leakage, assert_preserves_rows

TABLE = pd.DataFrame({"x": [3, 1, 2]})


def test_a_transform_that_keeps_its_rows_passes() -> None:
    assert_preserves_rows(lambda table: table.assign(y=1), TABLE)
    assert_preserves_rows(lambda table: table.to_numpy(), TABLE)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda table: table[table["x"] > 1], "lost rows: 3 went in, 2 came out"),
        (lambda table: pd.concat([table, table]), "added rows: 3 went in, 6 came out"),
        (lambda table: table.sort_values("x"), "reordered rows: at position 0, 0 became 1"),
    ],
)
def test_a_transform_that_changes_its_rows_is_told_how(transform: object, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_preserves_rows(transform, TABLE)  # type: ignore[arg-type]


CODES = np.array([0, 0, 0, 1])
GOOD = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]])


def test_predictions_that_beat_the_baseline_pass() -> None:
    assert_beats_baseline(GOOD, targets=CODES, train_targets=CODES, task="binary")
    assert_beats_baseline(GOOD, targets=CODES, train_targets=CODES, task="binary", metric="accuracy", by=0.25)
    values = np.array([1.0, 2.0, 4.0])
    assert_beats_baseline(values + 0.1, targets=values, train_targets=values, task="regression")


@pytest.mark.parametrize(("metric", "by", "side"), [("accuracy", 0.0, "higher"), ("log_loss", 0.5, "lower")])
def test_predictions_that_do_not_are_told_by_how_much(metric: str, by: float, side: str) -> None:
    prior = np.tile([0.75, 0.25], (4, 1))
    with pytest.raises(AssertionError, match=rf"{metric} .* does not beat the baseline's .*\({side} is better\)"):
        assert_beats_baseline(prior, targets=CODES, train_targets=CODES, task="binary", metric=metric, by=by)


def test_what_cannot_be_measured_does_not_pass() -> None:
    broken = np.full((4, 2), np.nan)
    with pytest.raises(AssertionError, match="does not beat"):
        assert_beats_baseline(broken, targets=CODES, train_targets=CODES, task="binary")


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"metric: is not measured for binary.*'acuracy'.*accuracy"):
        assert_beats_baseline(GOOD, targets=CODES, train_targets=CODES, task="binary", metric="acuracy")


def table(first: int, size: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(size) % 2)
    return Table(pd.DataFrame({"x": rng.normal(size=size)}), targets, np.arange(first, first + size))


SCHEMA = FeatureSchema((Feature("x", "numeric", (), -3.0, 3.0),), "y", "binary", (0, 1))
SPLITS = Splits(table(0, 30, 0), table(30, 10, 1), table(40, 10, 2), "binary", (0, 1), SCHEMA)


def test_splits_that_share_nothing_pass() -> None:
    assert_no_leakage(SPLITS)


def test_everything_that_leaks_is_told_at_once() -> None:
    train, test = SPLITS.train, table(40, 10, 2)
    assert isinstance(train, Table)
    copied = pd.concat([train.features[:4], test.features[4:]], ignore_index=True)
    rows = np.array([29, *test.rows[1:]])
    targets = np.concatenate([train.targets[:4], test.targets[4:]])
    leaking = replace(SPLITS, test=replace(test, features=copied, rows=rows, targets=targets))
    with pytest.raises(AssertionError) as caught:
        assert_no_leakage(leaking)
    assert "row 29: is in train and test" in str(caught.value)
    assert "4 of 10 test rows are exact copies" in str(caught.value)


def test_a_feature_that_is_the_target_leaks() -> None:
    leaking = {
        name: replace(part, features=pd.DataFrame({"x": part.targets}))
        for name in ("train", "val", "test")
        if isinstance(part := SPLITS[name], Table)
    }
    with pytest.raises(AssertionError, match="column 'x': equals the target"):
        assert_no_leakage(replace(SPLITS, **leaking))
