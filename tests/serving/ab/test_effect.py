"""What an A/B test says: proven by simulation, and against the textbook and the definitions of the methods."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mlops_hydra.serving.ab.effect import (
    MIN_UNITS,
    MIN_VARIED,
    MISMATCH_BELOW,
    Effect,
    Sample,
    boundary,
    effect,
    independence_p,
    mismatch,
)

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]
OUTCOMES: dict[str, tuple[Draw, float]] = {  # from the lift of each user (1: none); and the mean without one
    "conversion at 3 %": (lambda rng, lift: (rng.random(len(lift)) < 0.03 * lift).astype(float), 0.03),
    "normal": (lambda rng, lift: rng.normal(10, 3, len(lift)) * lift, 10.0),
    "log-normal": (lambda rng, lift: rng.lognormal(0, 1, len(lift)) * lift, math.exp(0.5)),
    "log-normal, sigma 2": (lambda rng, lift: rng.lognormal(0, 2, len(lift)) * lift, math.exp(2)),
    "5 % buy for a log-normal amount": (
        lambda rng, lift: rng.lognormal(0, 1, len(lift)) * (rng.random(len(lift)) < 0.05) * lift,
        0.05 * math.exp(0.5),
    ),
}
DAYS = 30


def sample(values: np.ndarray) -> Sample:
    return Sample(len(values), values.mean(), values.var(ddof=1), int((values != np.median(values)).sum()))


def days_of_a_test(
    rng: np.random.Generator, draw: Draw, *, num_users: int, share: float, lift: float = 0.0, num_looks: int = DAYS
) -> Iterator[tuple[Sample, Sample]]:
    """Control and treatment as they are at the end of each day; a day's users are as many as another's."""
    treated = rng.random(num_users) < share
    values = draw(rng, np.where(treated, 1 + lift, 1))
    varied = values != np.median(values)
    ends = np.linspace(0, num_users, num_looks + 1).astype(int)[1:] - 1
    sums = [
        [np.cumsum(column * of_arm)[ends] for column in (np.ones(num_users), values, values**2, varied)]
        for of_arm in (~treated, treated)
    ]
    for day in range(num_looks):
        yield tuple(_sample_of(*(column[day] for column in arm)) for arm in sums)


def _sample_of(num: float, total: float, squares: float, num_varied: float) -> Sample:
    mean = total / num if num else math.nan
    variance = max(squares - num * mean**2, 0.0) / (num - 1) if num > 1 else math.nan
    return Sample(int(num), mean, variance, int(num_varied))


def simulate(
    outcome: str,
    *,
    share: float,
    num_tests: int,
    num_users: int = 6000,
    planned: float | None = None,
    lift: float = 0.0,
    num_looks: int = DAYS,
    seed: int = 0,
) -> dict[str, float]:
    """Shares of tests: that ever excluded the truth (and by textbook), and that saw an effect by the end."""
    rng, (draw, mean) = np.random.default_rng(seed), OUTCOMES[outcome]
    planned, truth = planned or num_users, mean * lift
    wrong, textbook, seen = 0, 0, 0
    for _ in range(num_tests):
        is_wrong = is_wrong_by_textbook = is_seen = False
        for control, treatment in days_of_a_test(
            rng, draw, num_users=num_users, share=share, lift=lift, num_looks=num_looks
        ):
            found = effect(control, treatment, planned=planned, confidence=0.95)
            if not found.is_judged:
                continue
            is_wrong |= not found.low <= truth <= found.high
            is_seen |= found.sign > 0
            low, high = single_look_interval(control, treatment, confidence=0.95)
            is_wrong_by_textbook |= not low <= truth <= high
        wrong, textbook, seen = wrong + is_wrong, textbook + is_wrong_by_textbook, seen + is_seen
    return {"wrong": wrong / num_tests, "textbook": textbook / num_tests, "seen": seen / num_tests}


def single_look_interval(control: Sample, treatment: Sample, *, confidence: float) -> tuple[float, float]:
    """What a textbook says, right for one look only."""
    error = math.sqrt(control.variance / control.num_units + treatment.variance / treatment.num_units)
    low, high = stats.norm.interval(confidence, treatment.mean - control.mean, error)
    return float(low), float(high)


def at_most(rate: float, num_tests: int) -> float:
    """Above which a measured rate is no Monte-Carlo error (3 standard errors)."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / num_tests)


# Looking every day


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("outcome", ["conversion at 3 %", "normal", "log-normal"])
def test_equal_arms_looked_at_every_day_seldom_differ(outcome: str, share: float) -> None:
    found = simulate(outcome, share=share, num_tests=200, num_users=9000)
    assert found["wrong"] <= at_most(0.05, 200)


def test_a_textbook_interval_looked_at_every_day_often_finds_what_is_not_there() -> None:
    assert simulate("normal", share=0.5, num_tests=200)["textbook"] >= 0.15


def test_a_real_effect_is_found() -> None:
    assert simulate("conversion at 3 %", share=0.5, num_tests=30, num_users=20000, lift=0.4)["seen"] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("planned", [20_000, 2_000])
def test_equal_arms_differ_in_5_percent_of_the_tests_at_most(outcome: str, share: float, planned: int) -> None:
    found = simulate(outcome, share=share, num_tests=2000, num_users=20_000, planned=planned)
    assert found["wrong"] <= 0.05
    if outcome in ("conversion at 3 %", "normal", "log-normal"):
        assert 0.1 <= found["textbook"] <= 0.35


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_interval_holds_a_real_effect_all_the_time(outcome: str, share: float) -> None:
    found = simulate(outcome, share=share, num_tests=1000, num_users=20_000, lift=0.3)
    assert found["wrong"] <= at_most(0.05, 1000)


@pytest.mark.slow
def test_a_thousand_looks_are_as_safe_as_thirty() -> None:
    found = simulate("normal", share=0.5, num_tests=1000, num_users=50_000, planned=5_000, num_looks=1000)
    assert found["wrong"] <= 0.05
    assert found["textbook"] >= 0.4


def _growing_conversions(num_tests: int, seed: int = 0) -> float:
    """All users come on the first day, and convert on any of 30 days: the share of A/A tests that ever differ."""
    rng, num_users, wrong = np.random.default_rng(seed), 20_000, 0
    for _ in range(num_tests):
        treated = rng.random(num_users) < 0.5
        day = np.where(rng.random(num_users) < 0.2, rng.integers(0, DAYS, num_users), DAYS)
        for today in range(DAYS):
            control, treatment = (sample((day[arm] <= today).astype(float)) for arm in (~treated, treated))
            found = effect(control, treatment, planned=num_users, confidence=0.95)
            if found.sign:
                wrong += 1
                break
    return wrong / num_tests


@pytest.mark.slow
def test_outcomes_that_arrive_after_all_users_have_are_safe_too() -> None:
    assert _growing_conversions(1000) <= at_most(0.05, 1000)


# The interval


@pytest.mark.parametrize("num_units", [50, 1000, 70_000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_boundary_is_where_the_gaussian_mixture_reaches_the_level(num_units: int, confidence: float) -> None:
    """By Ville's inequality a test martingale exceeds 1 / alpha with probability alpha at most."""
    planned, alpha = 1000, 1 - confidence
    spread = _best_spread(planned, confidence)
    total = boundary(num_units, planned=planned, confidence=confidence) * math.sqrt(num_units)

    def martingale(rate: float) -> float:
        return math.exp(rate * total - rate**2 * num_units / 2) * stats.norm.pdf(rate, scale=spread)

    peak = total / num_units
    width = 12 / math.sqrt(num_units)
    mixture, _ = integrate.quad(martingale, peak - width, peak + width, limit=200)
    assert mixture == pytest.approx(1 / alpha, rel=1e-6)


def _best_spread(planned: int, confidence: float) -> float:
    """Of the mixture, found by search rather than by formula."""
    from scipy.optimize import minimize_scalar

    def factor(log_growth: float) -> float:
        growth = math.exp(log_growth)
        return (1 + 1 / growth) * math.log((1 + growth) / (1 - confidence) ** 2)

    return math.sqrt(
        math.exp(minimize_scalar(factor, bounds=(-3, 6), method="bounded", options={"xatol": 1e-12}).x) / planned
    )


def test_the_interval_costs_half_its_width_where_it_is_tightest_and_little_beside() -> None:
    factors = {
        num: round(boundary(num, planned=10_000, confidence=0.95), 2) for num in (1000, 3000, 10_000, 30_000, 100_000)
    }
    assert factors == {1000: 3.82, 3000: 3.19, 10_000: 3.04, 30_000: 3.1, 100_000: 3.25}


def test_the_effect_is_the_difference_of_the_means() -> None:
    control, treatment = Sample(5000, 2.0, 4.0, 5000), Sample(5000, 2.2, 4.0, 5000)
    found = effect(control, treatment, planned=10_000, confidence=0.95)
    error = math.sqrt(4 / 5000 + 4 / 5000)
    assert found.difference == pytest.approx(0.2)
    assert found.high - found.difference == pytest.approx(3.035 * error, rel=1e-3)
    assert found.low == pytest.approx(0.4 - found.high)
    assert found.relative == pytest.approx(0.1)
    assert found.sign == 1
    assert effect(treatment, control, planned=10_000, confidence=0.95).sign == -1
    low, high = single_look_interval(control, treatment, confidence=0.95)
    assert (found.high - found.low) / (high - low) == pytest.approx(3.035 / 1.96, rel=1e-3)


def test_the_detectable_effect_is_detected_in_four_of_five_cases() -> None:
    found = effect(Sample(5000, 0.0, 1.0, 5000), Sample(5000, 0.0, 1.0, 5000), planned=10_000, confidence=0.95)
    error = math.sqrt(2 / 5000)
    assert stats.norm.sf((found.high - found.detectable) / error) == pytest.approx(0.8, abs=1e-6)
    assert found.detectable_later < found.detectable


@pytest.mark.parametrize(
    ("control", "treatment"),
    [
        (Sample(MIN_UNITS - 1, 1.0, 1.0, MIN_UNITS - 1), Sample(5000, 1.0, 1.0, 5000)),
        (Sample(5000, 0.03, 0.03, 150), Sample(600, 0.03, 0.03, MIN_VARIED - 1)),
        (Sample(5000, 1.0, 0.0, 0), Sample(5000, 1.0, 0.0, 0)),
        (Sample(0, math.nan, math.nan, 0), Sample(5000, 1.0, 1.0, 5000)),
    ],
)
def test_few_units_get_no_interval(control: Sample, treatment: Sample) -> None:
    found = effect(control, treatment, planned=1000, confidence=0.95)
    assert not found.is_judged
    assert found.sign == 0


samples = st.builds(
    Sample,
    st.integers(MIN_UNITS, 10**7),
    st.floats(-100, 100).map(lambda value: round(value, 3)),
    st.floats(1e-3, 1e4),
    st.just(MIN_UNITS),
)


@settings(max_examples=200, deadline=None)
@given(control=samples, treatment=samples)
def test_the_relative_effect_excludes_0_if_and_only_if_the_absolute_does(control: Sample, treatment: Sample) -> None:
    found = effect(control, treatment, planned=10_000, confidence=0.95)
    assert found.low <= found.difference <= found.high
    if not math.isnan(found.relative):
        assert found.relative_low <= found.relative + 1e-9
        assert found.relative <= found.relative_high + 1e-9
        if min(abs(found.low), abs(found.high)) > 1e-6:
            assert (found.relative_low > 0) - (found.relative_high < 0) == found.sign


@pytest.mark.parametrize("mean", [0.0, 0.001, -5.0])
def test_there_is_no_relative_effect_where_control_is_about_0_or_below(mean: float) -> None:
    found = effect(Sample(500, mean, 1.0, 500), Sample(500, 3.0, 1.0, 500), planned=1000, confidence=0.95)
    assert found.is_judged
    assert math.isnan(found.relative_low)


def test_fieller_and_a_bootstrap_agree() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.gamma(2, 1, 4000), rng.gamma(2, 1.1, 3000)
    found = effect(sample(one), sample(other), planned=7000, confidence=0.95)
    means = [[rng.choice(values, len(values)).mean() for _ in range(2000)] for values in (one, other)]
    spread = np.std(np.array(means[1]) / np.array(means[0]))
    half = (found.relative_high - found.relative_low) / 2
    assert half == pytest.approx(3.035 * spread, rel=0.08)


def test_a_small_arm_that_missed_the_large_values_is_not_believed() -> None:
    control, treatment = Sample(90_000, 7.4, 2900.0, 90_000), Sample(1_000, 5.0, 100.0, 1_000)
    found = effect(control, treatment, planned=91_000, confidence=0.95)
    assert found.high - found.low > 5 * math.sqrt(100 / 1000) * 3


# Shares


def test_the_chi_square_statistic_is_the_textbook_one() -> None:
    found = mismatch([{"a": 520, "b": 480}], {"a": 1, "b": 1}, planned=1000)
    expected = stats.chisquare([520, 480])
    assert (found.statistic, found.single_look_p) == pytest.approx((expected.statistic, expected.pvalue))


def test_the_bayes_factor_is_the_product_of_predictions() -> None:
    """Each unit in turn is predicted by what came before (Polya's urn), and by the weights."""
    weights, planned, rng = {"a": 0.7, "b": 0.3}, 100_000, np.random.default_rng(0)
    arms = rng.choice(2, size=400, p=[0.5, 0.5])
    tuned = -float(_lambert(MISMATCH_BELOW)) - 1
    shares = np.array([0.7, 0.3])
    counts, log_factor, largest = shares * planned / tuned, 0.0, 0.0
    for arm in arms:
        log_factor += math.log(counts[arm] / counts.sum()) - math.log(shares[arm])
        counts[arm] += 1
        largest = max(largest, log_factor)
    looks = [{"a": int((arms == 0).sum()), "b": int((arms == 1).sum())}]
    assert -math.log(mismatch(looks, weights, planned=planned).p) == pytest.approx(log_factor, rel=1e-6)


def _lambert(alpha: float) -> float:
    from scipy.special import lambertw

    return lambertw(-(alpha**2) / math.e, -1).real


def _looks(rng: np.random.Generator, shares: list[float], num_users: int) -> list[dict[str, int]]:
    counts = rng.multinomial(num_users // DAYS, shares, size=DAYS).cumsum(axis=0)
    return [dict(zip("abc", map(int, row), strict=False)) for row in counts]


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.9, 0.09, 0.01]])
def test_users_who_were_shared_out_right_are_trusted(shares: list[float]) -> None:
    rng, weights = np.random.default_rng(1), dict(zip("abc", shares, strict=False))
    found = [mismatch(_looks(rng, shares, 20_000), weights, planned=20_000).is_found for _ in range(500)]
    assert np.mean(found) <= at_most(MISMATCH_BELOW, 500)


def test_users_who_were_shared_out_wrong_are_found() -> None:
    rng = np.random.default_rng(2)
    found = [mismatch(_looks(rng, [0.53, 0.47], 20_000), {"a": 1, "b": 1}, planned=20_000) for _ in range(50)]
    assert all(each.is_found for each in found)


def test_an_alarm_stays_though_the_shares_even_out() -> None:
    early, late = {"a": 700, "b": 300}, {"a": 50_200, "b": 49_800}
    assert mismatch([early, late], {"a": 1, "b": 1}, planned=10_000).is_found
    assert not mismatch([late], {"a": 1, "b": 1}, planned=10_000).is_found


@pytest.mark.parametrize(
    ("looks", "weights", "is_found"),
    [
        ([], {"a": 1, "b": 1}, False),
        ([{"a": 0, "b": 0}], {"a": 1, "b": 1}, False),
        ([{"a": 500}], {"a": 1}, False),
        ([{"a": 500, "b": 500, "c": 0}], {"a": 1, "b": 1, "c": 0}, False),
        ([{"a": 500, "b": 500, "c": 1}], {"a": 1, "b": 1, "c": 0}, True),
        ([{"a": 500, "b": 0}], {"a": 1, "b": 1}, True),
        ([{"a": 1, "b": 0}], {"a": 1, "b": 1}, False),
    ],
)
def test_arms_without_weight_or_users_are_cases_like_others(looks, weights, is_found) -> None:
    assert mismatch(looks, weights, planned=1000).is_found == is_found


def test_shares_of_arms_are_compared_as_the_textbook_does() -> None:
    table = np.array([[400, 300, 90], [600, 500, 210]])
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert independence_p(table[0].tolist(), table.sum(axis=0).tolist()) == pytest.approx(expected)
    assert independence_p([100, 50], [100, 50]) == 1.0
    assert independence_p([3, 0], [10, 0]) == 1.0


def test_what_is_not_known_is_no_effect() -> None:
    assert Effect(math.nan).sign == 0
