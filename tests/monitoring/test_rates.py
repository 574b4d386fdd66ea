"""How often the whole procedure is right: 60 columns, 100,000 rows of reference, and the usual 10,000 of current data.

A rate is only honest if the reference is drawn anew for every check: one that happens to be odd is odd in all checks
that share it. Reading 100,000 x 60 values takes a second, so the tests that `make test` runs draw what the profile
would have been (`drawn.py`); a slow one reads tables.

Seeds are fixed. Bounds leave what chance does to a true rate once in a million times (`at_most`, `at_least`).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlops_hydra.config.drift import MonitoringConfig, default_rules
from mlops_hydra.monitoring.detection import detect_drift
from mlops_hydra.monitoring.false_alarms import NUM_CHECKS
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.result import DriftReport, DriftResult
from tests.monitoring.drawn import (
    CARDINALITIES,
    NUM_CURRENT,
    NUM_REFERENCE,
    SHIFTED,
    category_shares,
    drawn_columns,
    reference_of,
    window_of,
)

ALPHA = 0.05
RULES = default_rules()
ANY_EFFECT = RULES.model_copy(
    update={"min_effect": RULES.min_effect.model_copy(update=dict.fromkeys(("numeric", "categorical", "share"), 0.0))}
)
"""However small: then the tests and their adjustment alone decide, which is what can be wrong too often."""


def at_most(rate: float, checks: int) -> int:
    """More than that many hits of `checks` do not happen if `rate` is what it is."""
    return int(stats.binom.isf(1e-6, checks, rate))


def at_least(rate: float, checks: int) -> int:
    """Fewer do not happen."""
    return checks - at_most(1 - rate, checks)


def drawn_reports(
    seed: int, *rules: MonitoringConfig, rows: int = NUM_CURRENT, shift: float = 0.0
) -> list[DriftReport]:
    """One check of a fresh reference, judged by each of the rules."""
    rng = np.random.default_rng(seed)
    columns = drawn_columns(rng)
    reference = reference_of(columns)
    window = window_of(reference, columns, rng, rows, shift)
    return [judge(reference, window, each) for each in rules]


def ks_of(report: DriftReport, name: str) -> DriftResult:
    return next(result for result in report if (result.feature, result.test) == (name, "ks"))


def has_alarm(report: DriftReport, alpha: float) -> bool:
    """Of a check by ANY_EFFECT: whether it would report something at another level, the range of numbers left aside."""
    tested = (result for result in report if result.adjusted_p is not None and result.test != "range")
    return any(result.adjusted_p < alpha and result.effect for result in tested)


@pytest.fixture(scope="module")
def undrifted() -> list[list[DriftReport]]:
    """By the usual rules, and by ANY_EFFECT."""
    return [drawn_reports(seed, RULES, ANY_EFFECT) for seed in range(120)]


def test_without_drift_few_checks_report_a_column(undrifted):
    usual, any_effect = (sum(bool(report.drifted) for report in each) for each in zip(*undrifted, strict=True))
    assert all(len(report) >= 60 for reports in undrifted for report in reports)
    assert usual <= any_effect <= at_most(ALPHA, len(undrifted)), (usual, any_effect)


def test_a_tenth_of_a_standard_deviation_is_found():
    checks = 60
    found = sum(SHIFTED in drawn_reports(seed, RULES, shift=0.1)[0].drifted for seed in range(checks))
    assert found >= at_least(0.95, checks), found


def test_a_million_rows_do_not_make_a_small_shift_matter():
    tiny = [drawn_reports(seed, RULES, rows=1_000_000, shift=0.005)[0] for seed in range(20)]
    assert not any(report.drifted for report in tiny)
    sure, small = drawn_reports(0, ANY_EFFECT, RULES, rows=1_000_000, shift=0.025)
    assert SHIFTED in sure.drifted
    assert not small.drifted


@pytest.mark.parametrize(("rows", "verdict"), [(100, "undecided"), (200, "stable"), (2000, "stable")])
def test_a_column_is_stable_only_where_enough_rows_were_seen(rows, verdict):
    reports = [drawn_reports(seed, RULES, rows=rows)[0] for seed in range(20)]
    numeric = [result for report in reports for result in report if result.test == "ks"]
    assert {result.verdict for result in numeric if not result.is_drifted} == {verdict}
    assert sum(bool(report.drifted) for report in reports) <= at_most(ALPHA, len(reports))


@pytest.mark.parametrize("rows", [200, 2000])
def test_what_is_called_detectable_is_found_in_four_of_five_samples_at_least(rows):
    checks = 60
    shift = ks_of(drawn_reports(0, RULES, rows=rows)[0], SHIFTED).detectable
    found = sum(SHIFTED in drawn_reports(seed, RULES, rows=rows, shift=shift)[0].drifted for seed in range(checks))
    assert found >= at_least(0.8, checks), found


def test_the_estimated_rate_of_false_alarms_is_that_of_fresh_references(undrifted):
    """But for what lies out of range: rows that are drawn from a reference never do."""
    alpha = 0.9  # at the usual one there are too few alarms to be compared
    rng = np.random.default_rng(1)
    columns = drawn_columns(rng)
    reference = reference_of(columns)
    window = window_of(reference, columns, rng)
    estimated = detect_drift(reference, window, alpha, rules=ANY_EFFECT, estimate_false_alarms=True).false_alarms
    measured = np.mean([has_alarm(report, alpha) for _, report in undrifted])
    error = np.sqrt(measured * (1 - measured) * (1 / NUM_CHECKS + 1 / len(undrifted)))
    assert estimated == pytest.approx(measured, abs=4 * error), (estimated, measured)


def table(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """50 numeric columns of many shapes, some with missing values, and 10 categorical ones."""
    numbers = rng.normal(size=(50, rows))
    numbers[5:10] = np.exp(numbers[5:10])
    numbers[10:13] = rng.exponential(size=(3, rows))
    numbers[13:16] = rng.uniform(size=(3, rows))
    numbers[16:18] = np.round(numbers[16:18], 1)
    numbers[18:20] = rng.standard_t(2, size=(2, rows))
    numbers[20:23] = np.maximum(numbers[20:23], 0)  # half of them are zero
    numbers[23:26] = rng.poisson(3, size=(3, rows))
    numbers[26] = rng.random(rows) < 0.001
    numbers[27:30][rng.random((3, rows)) < 0.02] = np.nan
    columns: dict[str, Any] = {f"n{place}": values for place, values in enumerate(numbers)}
    for cardinality in CARDINALITIES:
        names = np.arange(cardinality).astype(str).astype(object)
        columns[f"c{cardinality}"] = pd.Series(
            names[rng.choice(cardinality, rows, p=category_shares(cardinality))], dtype=object
        )
    return pd.DataFrame(columns)


@pytest.mark.slow
def test_400_checks_of_tables_are_right_as_often_as_is_said():
    """A reference serves 8 checks: of what they differ by, the current rows, a tenth as many, make ten elevenths."""
    num_references, times = 50, 8
    checks, tally = num_references * times, Counter[str]()
    for seed in range(num_references):
        rng = np.random.default_rng(seed)
        reference = Reference.of(table(rng, NUM_REFERENCE))
        for _ in range(times):
            tally.update(outcomes(reference, table(rng, NUM_CURRENT)))
    print(dict(tally))
    assert all(number <= 0.06 * checks for what, number in tally.items() if what.startswith("alarm")), tally
    assert all(tally[what] >= 0.95 * checks for what in ("found", "found from the profile")), tally


def outcomes(reference: Reference, current: pd.DataFrame) -> Iterator[str]:
    """What a check says without drift, and with one column shifted by a tenth of its standard deviation."""
    ways = {"": reference, " from the profile": Reference(reference.profile)}
    yield from (f"alarm{how}" for how, known in ways.items() if detect_drift(known, current).drifted)
    yield from (
        f"alarm at any effect{how}"
        for how, known in ways.items()
        if detect_drift(known, current, rules=ANY_EFFECT).drifted
    )
    shifted = current.assign(n0=current["n0"] + 0.1)
    yield from (f"found{how}" for how, known in ways.items() if "n0" in detect_drift(known, shifted).drifted)


@pytest.mark.slow
def test_400_checks_of_a_million_rows_report_no_small_shift():
    reports = [drawn_reports(seed, RULES, rows=1_000_000, shift=0.005)[0] for seed in range(400)]
    assert not any(report.drifted for report in reports)


def test_many_rare_categories_are_no_drift():
    """Of 2000 cities, a thousand rows do not show half; others come up in any further rows."""
    checks, cities, shares = 20, np.arange(2000).astype(str).astype(object), category_shares(2000)
    alarms = 0
    for seed in range(checks):
        rng = np.random.default_rng(seed)
        before, now = (pd.DataFrame({"city": cities[rng.choice(2000, rows, p=shares)]}) for rows in (1000, 500))
        alarms += bool(detect_drift(before, now).drifted)
    assert alarms <= at_most(ALPHA, checks), alarms
