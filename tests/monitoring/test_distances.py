"""Effect sizes from counts: against scipy's on the values themselves, and at the edges."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.monitoring.distances import population_stability, total_variation, wasserstein_of_cells


def count(values: FloatArray, edges: FloatArray) -> IntArray:
    return np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)


def measured(reference: FloatArray, current: FloatArray, edges: FloatArray) -> float:
    """W1 by way of cells that begin just below the reference's minimum and end with its maximum."""
    below = np.maximum(reference.min() - current, 0).sum()
    above = np.maximum(current - reference.max(), 0).sum()
    padded = np.pad(edges, (0, 2), mode="edge")[None]
    cells = [np.pad(count(values, edges), (0, 2))[None] for values in (reference, current)]
    return float(wasserstein_of_cells(padded, *cells, below=np.array([below]), above=np.array([above]))[0])


values = st.lists(st.integers(-4, 4), min_size=1, max_size=30).map(lambda drawn: np.array(drawn, dtype=np.float64))


@given(values, values)
def test_wasserstein_of_points_is_exact_wherever_the_current_values_lie_on_them(
    reference: FloatArray, current: FloatArray
) -> None:
    known = np.unique(np.concatenate([reference, current[(current >= reference.min()) & (current <= reference.max())]]))
    edges = np.unique(np.concatenate([np.nextafter(known, -np.inf), known]))
    exact = stats.wasserstein_distance(reference, current)
    assert measured(reference, current, edges) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.1, 1.0), (0.0, 1.3), (-4.0, 1.0)])
def test_wasserstein_of_a_continuous_column_is_close(shift: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=20_000), rng.normal(shift, scale, 5_000)
    inner = np.quantile(reference, np.linspace(0, 1, 127)[1:])
    edges = np.append(np.nextafter(reference.min(), -np.inf), inner)
    exact = stats.wasserstein_distance(reference, current)
    found = measured(reference, current, edges)
    shares = sum(count(values, edges) / len(values) for values in (reference, current))
    assert abs(found - exact) <= (shares[1:-1] * np.diff(edges)).sum()
    assert found == pytest.approx(exact, abs=0.005, rel=0.05)


def test_cells_without_width_or_without_end_do_not_count() -> None:
    edges = np.array([[-np.inf, 0.0, 1.0, np.inf], [2.0, 2.0, 2.0, 2.0]])
    reference, current = np.array([[0, 2, 2, 0, 0], [0, 5, 0, 0, 0]]), np.array([[0, 1, 3, 0, 0], [5, 0, 0, 0, 0]])
    distances = wasserstein_of_cells(edges, reference, current, below=np.array([0.0, 15.0]), above=np.zeros(2))
    assert distances.tolist() == [0.125, 3.0]
    none = wasserstein_of_cells(
        np.empty((1, 0)), np.array([[4]]), np.array([[0]]), below=np.zeros(1), above=np.zeros(1)
    )
    assert np.isnan(none).all()


def test_population_stability_is_that_of_ten_groups_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=100_000), rng.normal(0.5, size=50_000)
    edges, tenths = (np.quantile(reference, np.linspace(0, 1, k + 1)[1:-1]) for k in (100, 10))
    cells = [count(values, edges)[None] for values in (reference, current)]
    shares = [count(values, tenths) / len(values) for values in (reference, current)]
    by_hand = ((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum()
    assert population_stability(*cells)[0] == pytest.approx(by_hand, rel=2e-3)
    assert population_stability(cells[0], cells[0])[0] == 0


def test_population_stability_is_finite_and_blind_to_padding() -> None:
    reference, current = np.array([[50, 0, 50, 0, 0], [0, 9, 0, 0, 0]]), np.array([[0, 0, 9, 1, 0], [0, 0, 0, 0, 0]])
    for max_groups in (None, 10):
        found = population_stability(reference, current, max_groups=max_groups)
        assert found[0] > 0.5
        assert math.isfinite(found[0])
        assert math.isnan(found[1])
    padded = population_stability(np.pad(reference, ((0, 0), (0, 4))), np.pad(current, ((0, 0), (0, 4))))
    assert padded[0] == pytest.approx(population_stability(reference, current)[0])


def test_total_variation_is_the_share_of_rows_that_would_have_to_change() -> None:
    assert total_variation(np.array([5, 5, 0]), np.array([70, 20, 10])) == pytest.approx(0.3)
    assert total_variation(np.array([5, 0]), np.array([0, 1])) == 1
    assert math.isnan(total_variation(np.array([5, 0]), np.array([0, 0])))
