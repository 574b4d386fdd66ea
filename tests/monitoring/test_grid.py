"""Grids: what their counts say for certain."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.monitoring.grid import (
    are_points,
    count,
    join_edges,
    make_edges,
    merge_cells,
    part_edges,
    resolution,
)

NUMBERS = st.one_of(
    st.integers(-6, 6).map(float),
    st.floats(-3, 3).map(lambda x: round(x, 2)),
    st.floats(allow_nan=False),
)
SHAPES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(8, 2, size=n),
    "t3": lambda rng, n: rng.standard_t(3, size=n),
    "integers": lambda rng, n: rng.integers(0, 30, size=n).astype(float),
    "rounded": lambda rng, n: rng.normal(size=n).round(1),
    "half zeros": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.exponential(size=n)),
    "constant": lambda _, n: np.full(n, 0.1),
}
BINS = st.sampled_from([1, 2, 8, 128])


@st.composite
def columns(draw: st.DrawFn, min_size: int = 0) -> FloatArray:
    """A few wild numbers, or many of a well-known shape."""
    if draw(st.booleans()):
        return np.array(draw(st.lists(NUMBERS, min_size=min_size, max_size=60)), dtype=np.float64)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    shape = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    numbers: FloatArray = draw(st.sampled_from([0.5, 1.0, 3.0])) * shape(rng, draw(st.sampled_from([50, 2000])))
    return numbers


def of_cells(reference: IntArray, current: IntArray) -> float:
    shares = [np.cumsum(cells) / cells.sum() for cells in (reference, current)]
    return float(np.abs(shares[0] - shares[1]).max())


def exact(reference: FloatArray, current: FloatArray) -> float:
    with np.errstate(all="ignore"):  # of the p-value
        return float(stats.ks_2samp(reference, current, method="asymp").statistic)


@given(columns(), st.lists(st.floats(allow_nan=False, allow_infinity=False), unique=True, max_size=20))
@settings(max_examples=60, deadline=None)
def test_counts_are_exact_at_the_edges_whatever_they_are(values: FloatArray, edges: list[float]) -> None:
    at = np.unique(np.array(edges, dtype=np.float64))
    cells = count(values, at)
    assert len(cells) == len(at) + 1
    assert cells.sum() == len(values)
    assert np.cumsum(cells)[:-1].tolist() == [(values <= edge).sum() for edge in at]


@given(columns(min_size=1), columns(min_size=1), BINS)
@settings(max_examples=150, deadline=None)
def test_the_statistic_of_the_cells_is_below_the_exact_one_by_at_most_the_resolution(
    reference: FloatArray, current: FloatArray, bins: int
) -> None:
    edges = make_edges(reference, bins=bins)
    cells = count(reference, edges)
    found, truth = of_cells(cells, count(current, edges)), exact(reference, current)
    assert found - 1e-12 <= truth <= found + resolution(edges, cells) + 1e-12


@given(columns(min_size=1), st.data())
@settings(max_examples=60, deadline=None)
def test_the_statistic_is_exact_where_few_values_occur(reference: FloatArray, data: st.DataObject) -> None:
    reference = reference[np.isfinite(reference)]
    distinct = np.unique(reference)
    if not 0 < len(distinct) <= 128:
        return
    current = np.array(data.draw(st.lists(st.sampled_from(distinct.tolist()), min_size=1, max_size=40)))
    edges = make_edges(reference, bins=128)
    cells = count(reference, edges)
    assert resolution(edges, cells) == 0.0
    assert of_cells(cells, count(current, edges)) == pytest.approx(exact(reference, current), abs=1e-12)


@given(columns(), BINS)
@settings(max_examples=100, deadline=None)
def test_edges_ascend_and_the_range_lies_within_the_outer_cells(values: FloatArray, bins: int) -> None:
    edges = make_edges(values, bins=bins)
    finite = values[np.isfinite(values)]
    if not len(finite):
        assert len(edges) == 0
        return
    assert (np.diff(edges) > 0).all() or np.isneginf(edges[0])
    assert np.nextafter(edges[0], np.inf) == finite.min()
    assert edges[-1] == finite.max()
    assert len(edges) <= 2 * (bins + 2)
    cells = count(values, edges)
    assert (cells[0], cells[-1]) == (np.isneginf(values).sum(), np.isposinf(values).sum())
    assert are_points(edges)[[1, -2]].all()


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_no_cell_holds_much_more_than_its_share_and_frequent_values_are_points(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(1), 20_000)
    edges = make_edges(values, bins=64)
    cells = count(values, edges)
    assert resolution(edges, cells) <= 1.3 / 64
    distinct, counts = np.unique(values, return_counts=True)
    frequent = distinct[counts >= len(values) / 64]
    assert np.isin(frequent, edges[are_points(edges)[1:-1].nonzero()[0] + 1]).all()


def test_edges_between_the_points_have_few_digits() -> None:
    rng = np.random.default_rng(2)
    for shape in ("normal", "lognormal", "t3"):
        _, others = part_edges(make_edges(1e6 * SHAPES[shape](rng, 20_000), bins=128))
        assert len(others) == 127
        assert all(float(f"{edge:.5g}") == edge for edge in others)


def test_a_frequent_value_is_not_pushed_over_an_edge_by_rounding() -> None:
    values = np.repeat(np.arange(200) / 200 + 1.0003, 10)  # each makes 0.5 %, less than a bin of 1/128
    edges = make_edges(values, bins=128)
    assert resolution(edges, count(values, edges)) <= 1.3 / 128


def test_a_weight_counts_as_so_many_values_and_a_weight_of_nothing_widens_the_range_alone() -> None:
    rng = np.random.default_rng(3)
    values, weights = rng.normal(size=500), rng.integers(1, 5, size=500)
    repeated = make_edges(np.repeat(values, weights), bins=16)
    assert make_edges(values, bins=16, weights=weights).tolist() == repeated.tolist()
    wide = make_edges(np.append(values, 99.0), bins=16, weights=np.append(weights, 0))
    assert wide[-1] == 99.0
    assert len(set(repeated) - set(wide)) <= 3  # the old maximum is a point no more, and its neighbour has more room


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_points_and_other_edges_make_the_same_grid_again(values: list[float], steps: int) -> None:
    edges = np.unique(np.array(values, dtype=np.float64))
    for _ in range(steps):  # neighbouring floats
        edges = edges[np.isfinite(edges)]
        edges = join_edges(edges[::2], edges)
    assert join_edges(*part_edges(edges)).tolist() == edges.tolist()


def test_nothing_counted_has_no_resolution() -> None:
    assert np.isnan(resolution(np.array([1.0]), np.zeros(2, dtype=np.int64)))


@given(columns(), columns(), BINS, BINS)
@settings(max_examples=120, deadline=None)
def test_two_grids_become_one_whose_counts_are_as_wrong_as_it_says_at_most(
    one: FloatArray, other: FloatArray, bins: int, other_bins: int
) -> None:
    both = np.concatenate([one, other])
    grids = make_edges(one, bins=bins), make_edges(other, bins=other_bins)
    edges, cells, error = merge_cells(grids, (count(one, grids[0]), count(other, grids[1])))
    assert cells.sum() == len(both)
    assert (cells >= 0).all()
    assert len(edges) <= max(4, *map(len, grids))
    truth = count(both, edges)
    assert np.abs(np.cumsum(cells) - np.cumsum(truth)).max() <= error
    if np.isfinite(both).all() and len(both):
        assert (cells[0], cells[-1]) == (0, 0)


def test_merging_halves_of_a_column_loses_less_than_a_cell() -> None:
    rng = np.random.default_rng(4)
    parts = [rng.normal(size=5000), rng.normal(size=5000)]
    grids = [make_edges(part, bins=128) for part in parts]
    edges, cells, error = merge_cells((grids[0], grids[1]), (count(parts[0], grids[0]), count(parts[1], grids[1])))
    assert error <= 1.2 * 10_000 / 128 / 2
    off = np.abs(np.cumsum(cells) - np.cumsum(count(np.concatenate(parts), edges))).max()
    assert off <= error / 3  # the bound is for the worst column there is
