"""Profiles of tables, at once and in chunks."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_hydra.config.section import Kind
from mlops_hydra.data.values import FloatArray, Values
from mlops_hydra.evaluation import metrics
from mlops_hydra.monitoring import profiling
from mlops_hydra.monitoring.grid import count
from mlops_hydra.monitoring.profile import CategoryProfile, ColumnProfile, NumericProfile
from mlops_hydra.monitoring.profiling import profile_chunks, profile_columns, row_losses

KINDS: dict[str, Kind] = {"n": "numeric", "c": "categorical", "d": "date", "r": "numeric"}


def make_table(num_rows: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=num_rows)
    numbers[rng.random(num_rows) < 0.1] = np.nan
    return {
        "n": numbers,
        "c": rng.choice(["a", "b", "b", "c"], num_rows).astype(object),
        "d": np.datetime64("2024-01-01") + rng.integers(0, 1000, num_rows),
        "r": rng.exponential(size=num_rows).round(1),
    }


def in_chunks(table: dict[str, Any], num_rows: int) -> Callable[[], Iterator[dict[str, Values]]]:
    total = len(table["n"])
    return lambda: ({k: v[a : a + num_rows] for k, v in table.items()} for a in range(0, total, num_rows))


def plain(profile: ColumnProfile) -> list[Any]:
    counts = profile.counts
    found = [profile.name, profile.kind, counts.cells.tolist(), counts.num_missing, counts.num_unreadable]
    return [*found, profile.edges.tolist() if isinstance(profile, NumericProfile) else profile.categories]


def of(profiles: tuple[ColumnProfile, ...], name: str) -> NumericProfile:
    (found,) = (each for each in profiles if each.name == name)
    assert isinstance(found, NumericProfile)
    return found


@given(st.integers(1, 60), st.sampled_from([1, 7, 100]), st.sampled_from([4, 128]))
@settings(max_examples=25, deadline=None)
def test_chunks_that_fit_the_sample_make_the_profile_of_the_table(num_rows: int, chunk_rows: int, bins: int) -> None:
    table = make_table(num_rows)
    at_once = profile_columns(table, KINDS, bins=bins, max_categories=2, num_rows=num_rows)
    counted, chunked = profile_chunks(in_chunks(table, chunk_rows), KINDS, bins=bins, max_categories=2)
    assert counted == num_rows
    assert list(map(plain, chunked)) == list(map(plain, at_once))
    for name in ("n", "r"):
        one, other = of(at_once, name), of(chunked, name)
        moments = [one.mean, one.deviation], [other.mean, other.deviation]
        np.testing.assert_allclose(*moments, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_beyond_the_sample_counts_are_exact_and_cells_about_even() -> None:
    table = make_table(40_000)
    _, profiles = profile_chunks(in_chunks(table, 3000), KINDS, bins=32, max_categories=5, sample_rows=4000)
    found = of(profiles, "n")
    known: FloatArray = table["n"][~np.isnan(table["n"])]
    assert found.counts.cells.tolist() == count(known, found.edges).tolist()
    assert (found.minimum, found.maximum) == (known.min(), known.max())
    assert found.counts.num_missing == np.isnan(table["n"]).sum()
    assert found.resolution <= 1.6 / 32
    assert found.mean == pytest.approx(known.mean())
    assert found.deviation == pytest.approx(known.std(ddof=1))


def test_the_sample_follows_from_the_seed_and_not_from_the_chunks() -> None:
    table = make_table(5000)

    def profiled(chunk_rows: int, seed: int) -> list[Any]:
        chunks = in_chunks(table, chunk_rows)
        _, profiles = profile_chunks(chunks, KINDS, bins=16, max_categories=5, sample_rows=500, seed=seed)
        return list(map(plain, profiles))

    assert profiled(100, 1) == profiled(999, 1)
    assert profiled(100, 1) != profiled(100, 2)


def test_the_sample_is_uniform() -> None:
    table = {"n": np.arange(20_000.0)}
    _, (found,) = profile_chunks(in_chunks(table, 700), {"n": "numeric"}, bins=4, max_categories=1, sample_rows=2000)
    assert isinstance(found, NumericProfile)
    shares = found.counts.cells / 20_000
    assert np.abs(shares[shares > 0.01] - 0.25).max() < 0.04


def test_rare_categories_are_forgotten_before_the_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_MAX_KNOWN", 50)
    table = {"n": np.array([["often", f"id {i}"] for i in range(300)]).ravel().astype(object)}
    _, (found,) = profile_chunks(in_chunks(table, 60), {"n": "categorical"}, bins=4, max_categories=1)
    assert isinstance(found, CategoryProfile)
    assert found.categories == ("often",)
    assert found.counts.cells.tolist() == [300, 300]
    assert not found.counts.unseen


def test_the_most_frequent_categories_are_kept_in_order() -> None:
    (found,) = profile_columns({"c": list("zzyyxw")}, {"c": "categorical"}, bins=4, max_categories=3, num_rows=6)
    assert isinstance(found, CategoryProfile)
    assert found.categories == ("w", "y", "z")
    assert found.counts.cells.tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize("values", [[], [None] * 3, ["x", None, []], [1.5] * 4, [np.inf, -np.inf], [0, True, "1"]])
@pytest.mark.parametrize("kind", ["numeric", "date", "categorical", "boolean"])
def test_every_column_has_a_profile(values: list[Any], kind: Kind) -> None:
    (found,) = profile_columns({"x": values}, {"x": kind}, bins=8, max_categories=2, num_rows=len(values))
    assert found.kind == kind
    assert found.counts.num_rows == len(values)


def test_booleans_are_false_and_true_whatever_occurs() -> None:
    (found,) = profile_columns({"b": ["TRUE", 1, None]}, {"b": "boolean"}, bins=8, max_categories=1, num_rows=3)
    assert isinstance(found, CategoryProfile)
    assert found.categories == ("false", "true")
    assert found.counts.cells.tolist() == [0, 2, 0]


def test_a_column_that_some_chunk_lacks_is_missing_there() -> None:
    chunks: list[dict[str, Values]] = [{"n": [1.0, 2.0], "c": ["a", "b"]}, {"c": ["a"]}, {"n": [3.0]}]
    num_rows, (n, c) = profile_chunks(lambda: chunks, {"n": "numeric", "c": "categorical"}, bins=8, max_categories=8)
    assert num_rows == 4
    assert (n.counts.num_values, n.counts.num_missing) == (3, 1)
    assert (c.counts.num_values, c.counts.num_missing) == (3, 1)
    assert profile_chunks(list, {"n": "numeric"}, bins=8, max_categories=8)[0] == 0


def test_losses_are_those_that_the_metrics_average() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=50)
    probabilities[0] = [0, 1, 0]
    targets = np.append(0, rng.integers(0, 3, 49))
    losses = row_losses("multiclass", targets, probabilities)
    scored = metrics.score("multiclass", targets, probabilities)
    assert losses["log_loss"].mean() == pytest.approx(scored["log_loss"])
    assert losses["error_rate"].mean() == pytest.approx(1 - scored["accuracy"])
    values = rng.normal(size=50)
    losses, scored = row_losses("regression", values, values + 1), metrics.score("regression", values, values + 1)
    assert losses["absolute_error"].mean() == pytest.approx(scored["mae"])
    assert losses["squared_error"].mean() == pytest.approx(scored["rmse"] ** 2)
