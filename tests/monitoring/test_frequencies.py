"""Tests of counts against scipy's, against enumeration, and what they can find against simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_hydra.monitoring.frequencies import (
    chi_square,
    detectable_share,
    detectable_variation,
    range_p_values,
    share_p_values,
)

counts = st.one_of(st.just(0), st.integers(0, 6), st.integers(0, 300))


def merged_by_hand(table: list[list[int]]) -> list[list[int]]:
    """Columns of a table of two rows: small ones as one, then with the next larger ones; at least two stay."""
    enough = 5 * sum(map(sum, table)) / min(map(sum, zip(*table, strict=True)))
    columns = sorted((column for column in reversed(table) if sum(column)), key=sum)  # of equal ones the last merges
    small = [column for column in columns if sum(column) < enough]
    if len(columns) <= 2 or not small:
        return columns
    large = columns[len(small) :]
    while len(large) > 1 and sum(map(sum, small)) < enough:
        small.append(large.pop(0))
    return [[sum(column[row] for column in small) for row in (0, 1)], *large]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(counts, counts).map(list), min_size=1, max_size=12))
def test_chi_square_is_scipy_s_of_the_merged_table(table: list[list[int]]) -> None:
    reference, current = np.array(table).T
    found = chi_square(reference, current)
    if not reference.any() or not current.any():
        assert found is None
        return
    merged = merged_by_hand(table)
    if len(merged) == 1:
        one_only = np.count_nonzero(reference + current) == 1
        assert (found is not None) == one_only
        assert found is None or (found.statistic, found.p_value, found.degrees) == (0, 1, 0)
        return
    assert found is not None
    statistic, p, degrees, expected = stats.chi2_contingency(np.transpose(merged), correction=False)
    assert (found.statistic, found.degrees) == (pytest.approx(statistic, abs=1e-12, rel=1e-12), degrees)
    if expected.min() < 5 - 1e-9:
        p = stats.fisher_exact(np.transpose(merged)).pvalue
    if abs(expected.min() - 5) > 1e-9:
        assert found.p_value == pytest.approx(p, rel=1e-9, abs=1e-300)


def test_chi_square_says_how_many_categories_it_merged() -> None:
    found = chi_square(np.array([900, 80, 9, 7, 3, 0]), np.array([930, 70, 8, 2, 0, 1]))
    assert (found.num_merged, found.degrees) == (3, 3) if found else pytest.fail("not tested")
    assert chi_square(np.array([100, 100, 100]), np.array([2, 3, 3])) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_shares_are_compared_by_fisher_where_counts_are_small(a: int, no_a: int, b: int, no_b: int) -> None:
    n, m = a + no_a, b + no_b
    p = share_p_values(a, n, b, m)[0]
    if not min(n, m, a + b, no_a + no_b):
        assert p == 1
        return
    expected = stats.contingency.expected_freq([[a, no_a], [b, no_b]]).min()
    if expected < 5 - 1e-9:
        assert p == pytest.approx(stats.fisher_exact([[a, no_a], [b, no_b]]).pvalue, rel=1e-9)
    elif expected > 5 + 1e-9:
        assert p == pytest.approx(stats.chi2_contingency([[a, no_a], [b, no_b]], correction=False).pvalue, rel=1e-9)


def test_rare_hits_among_millions_are_tested_exactly() -> None:
    cases = [(0, 10_000_000, 3, 10_000), (999_998, 1_000_000, 9_990, 10_000), (40, 1_000_000, 2, 300)]
    p = share_p_values(*np.array(cases).T)
    for ours, (a, n, b, m) in zip(p, cases, strict=True):
        assert ours == pytest.approx(stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 4), (4, 4), (5, 2)])
def test_values_out_of_the_range_are_as_probable_as_among_all_orders(n: int, m: int) -> None:
    orders = itertools.combinations(range(n + m), n)  # the places of the earlier values among all
    outside = [places[0] + n + m - 1 - places[-1] for places in orders]
    for j in range(m + 1):
        exact = np.mean(np.array(outside) >= j)
        assert range_p_values(j // 2, j - j // 2, n, m) == pytest.approx(exact, rel=1e-12)


def test_values_out_of_the_range_of_large_samples_have_the_p_of_whole_numbers() -> None:
    n, m, outside = 100_000, 10_000, [0, 1, 2, 5, 20]
    exact = [(math.comb(m, j + 1) + n * math.comb(m, j)) / math.comb(n + m, j + 1) for j in outside]
    assert range_p_values(outside, 0, n, m) == pytest.approx(exact, rel=1e-8)
    assert range_p_values([0, 3], [0, 0], [0, 0], [0, 4]).tolist() == [1, 1]


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3])
@pytest.mark.parametrize(("n", "m", "alpha"), [(100_000, 10_000, 0.001), (100_000, 300, 0.05), (500, 300, 0.05)])
def test_a_rise_of_the_detectable_size_is_found_in_about_four_of_five_samples(
    share: float, n: int, m: int, alpha: float
) -> None:
    rng = np.random.default_rng(0)
    rise = float(detectable_share(share, n, m, alpha=alpha))
    hits = rng.binomial(n, share, 500), rng.binomial(m, share + rise, 500)
    power = (share_p_values(hits[0], n, hits[1], m) < alpha).mean()
    assert 0.6 < power < 0.95


def test_a_variation_of_the_detectable_size_is_found_in_four_of_five_samples() -> None:
    rng = np.random.default_rng(0)
    n, m, categories, alpha = 20_000, 2_000, 8, 0.01
    variation = detectable_variation(n, m, categories - 1, alpha=alpha)
    before = np.full(categories, 1 / categories)
    after = before + np.tile([1, -1], categories // 2) * 2 * variation / categories
    tables = zip(rng.multinomial(n, before, 400), rng.multinomial(m, after, 400), strict=True)
    found = [result.p_value < alpha for result in itertools.starmap(chi_square, tables) if result]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def test_what_cannot_be_found_is_as_large_as_can_be() -> None:
    assert detectable_variation(1000, 2, 3, alpha=0.001) == 1
    assert detectable_variation(0, 5, 3, alpha=0.05) == detectable_variation(5, 5, 0, alpha=0.05) == 1
    assert detectable_share([0.2, 0.0, 1.0], [10, 0, 10], [1, 5, 10], alpha=1e-6).tolist() == [0.8, 1.0, 0.0]
    assert math.isfinite(detectable_share(0.0, 1, 1, alpha=0.05))
