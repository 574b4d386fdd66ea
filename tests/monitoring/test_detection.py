"""`detect_drift` as it is imported: what it takes, that it agrees with scipy, and what it says of nonsense."""

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console
from scipy import stats

from mlops_hydra import DriftResult, detect_drift
from mlops_hydra.atomic import json_text
from mlops_hydra.config.drift import default_rules
from mlops_hydra.errors import RequestError
from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.result import DriftReport
from mlops_hydra.monitoring.window import Window
from mlops_hydra.monitoring.wording import print_drift


def frame(n: int, *, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "income": rng.normal(shift, 1, n),
            "city": rng.choice(["Bonn", "Köln"], n),
            "since": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D"),
            "is_open": rng.random(n) < 0.3,
        }
    )


def values(result: DriftResult) -> tuple[Any, ...]:
    return result.feature, result.test, result.verdict, result.statistic, result.p_value, result.effect, result.reason


# --- what it takes


def test_a_result_has_the_fields_of_the_mission_first():
    result = DriftResult("a", 0.1, 0.01, True)
    assert (result.feature, result.statistic, result.p_value, result.is_drifted) == ("a", 0.1, 0.01, True)


def test_two_frames_are_compared_column_by_column():
    results = detect_drift(frame(2000), frame(500, shift=0.5, seed=1), 0.05)
    assert {result.feature for result in results if result.is_drifted} == {"income"}
    assert {(result.feature, result.test) for result in results} == {
        ("income", "ks"), ("city", "chi_square"), ("since", "ks"), ("since", "weekday"), ("is_open", "chi_square"),
    } | {(result.feature, "range") for result in results if result.test == "range"}  # fmt: skip
    assert isinstance(results[0], DriftResult) and results[0].feature == "income"


@pytest.mark.parametrize(
    "prepare",
    [
        lambda table: {name: table[name].tolist() for name in table},
        lambda table: {name: table[name].to_numpy() for name in table},
        lambda table: {name: tuple(table[name]) for name in table},
        lambda table: table.convert_dtypes(dtype_backend="pyarrow"),
        lambda table: table.astype({"city": "category", "income": object}).set_axis(range(7, 7 + len(table))),
        lambda table: table.assign(since=table["since"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
    ],
    ids=["lists", "arrays", "tuples", "arrow", "dtypes", "time zones"],
)
def test_the_same_values_give_the_same_results_whatever_holds_them(prepare: Callable[[pd.DataFrame], Any]):
    before, now = frame(1000), frame(300, shift=0.3, seed=1)
    plain = [values(result) for result in detect_drift(before, now)]
    assert [values(result) for result in detect_drift(prepare(before), now)] == plain
    assert [values(result) for result in detect_drift(before, prepare(now))] == plain


def test_a_reference_is_prepared_once_and_a_profile_is_as_good_but_for_its_grid():
    before, now = frame(3000), frame(500, shift=0.1, seed=1)
    direct, reference = detect_drift(before, now), Reference.of(before)
    assert list(map(values, detect_drift(reference, now))) == list(map(values, direct))
    profile = Profile.from_json(reference.profile.to_json())
    by_profile = {(each.feature, each.test): each for each in detect_drift(profile, now)}
    for exact in direct:
        coarse = by_profile[exact.feature, exact.test]
        assert coarse.verdict == exact.verdict
        resolution = 1.25 / 128 if exact.test == "ks" else 1e-12
        assert coarse.statistic <= exact.statistic + 1e-12 and exact.statistic - coarse.statistic <= resolution
    window = Window(profile)
    window.add({name: now[name].to_numpy() for name in now}, len(now))
    assert list(map(values, detect_drift(profile, window))) == list(map(values, by_profile.values()))


def test_the_threshold_is_the_false_discovery_rate_and_rules_are_the_rest():
    before, now = frame(2000), frame(500, shift=0.2, seed=1)
    (found,) = (result for result in detect_drift(before, now) if (result.feature, result.test) == ("income", "ks"))
    assert found.is_drifted
    for threshold, drifts in ((found.adjusted_p / 2, False), (min(2 * found.adjusted_p, 0.99), True)):
        report = detect_drift(before, now, threshold)
        assert report.alpha == threshold and ("income" in report.drifted) == drifts
    rules = default_rules().model_copy(update={"by_column": {"income": 0.5}})
    assert not detect_drift(before, now, rules=rules).drifted
    assert detect_drift(before, now).false_alarms is None
    assert 0 <= detect_drift(before, now, estimate_false_alarms=True).false_alarms < 0.1


# --- agreement with scipy

numbers = st.one_of(
    st.integers(-3, 3).map(float), st.just(2.5), st.sampled_from([math.inf, -math.inf]), st.just(math.nan), st.floats()
)
columns = arrays.arrays(np.float64, st.integers(1, 200), elements=numbers, fill=st.sampled_from([0.0, 1.0, math.nan]))


def ks(before: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = stats.ks_2samp(before, now)
    return found.statistic, 1.0 if caught else found.pvalue  # theirs came to 1 + 2e-16, and fell back to another p


@settings(max_examples=60, deadline=None)
@given(columns, columns, columns, columns)
def test_every_numeric_result_is_that_of_scipy(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray):
    n, m = min(len(a), len(b)), min(len(c), len(d))
    before, now = {"a": a[:n], "b": b[:n]}, {"a": c[:m], "b": d[:m]}
    found = {result.feature: result for result in detect_drift(before, now) if result.test == "ks"}
    assert found.keys() == {"a", "b"}
    for name, result in found.items():
        old, new = (table[name][~np.isnan(table[name])] for table in (before, now))
        assert (result.num_reference, result.num_current) == (len(old), len(new))
        if not len(old) or not len(new):
            assert (result.statistic, result.p_value, result.verdict) == (None, None, "undecided")
            continue
        statistic, p = ks(old, new)
        assert result.statistic == pytest.approx(statistic, abs=1e-12)
        assert result.p_value == pytest.approx(p, abs=1e-5)


letters = st.lists(st.sampled_from("aaabbcd"), min_size=60, max_size=200)


@settings(max_examples=40, deadline=None)
@given(letters, letters)
def test_every_categorical_result_is_that_of_scipy(before: list[str], now: list[str]):
    (found,) = (each for each in detect_drift({"x": before}, {"x": now}) if each.test == "chi_square")
    known = sorted(set(before))
    rows = [[Counter(rows)[c] for c in known] + [sum(c not in known for c in rows)] for rows in (before, now)]
    table = np.array(rows)[:, np.sum(rows, axis=0) > 0]
    if table.shape[1] == 1 or stats.contingency.expected_freq(table).min() < 5:
        return  # cells are merged first: see test_frequencies.py
    theirs = stats.chi2_contingency(table, correction=False)
    assert found.statistic == pytest.approx(theirs.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-5)


# --- whatever comes

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["2024-02-30", " 1 "]),
    st.dates(), st.datetimes(),
    st.decimals(allow_nan=False), st.binary(max_size=3), st.lists(st.integers(), max_size=2),
    st.complex_numbers(), st.timedeltas(), st.just(pd.NA), st.just(pd.NaT),
)  # fmt: skip
mixtures = st.lists(anything, max_size=12)


@settings(max_examples=40, deadline=None)
@given(mixtures, mixtures, st.booleans())
def test_any_values_at_all_are_reported_or_refused_with_a_reason(before: list[Any], now: list[Any], is_frame: bool):
    repeat = 5
    tables = [{"x": pd.Series(each * repeat, dtype=object)} for each in (before, now)]
    try:
        tell(detect_drift(*(pd.DataFrame(table) if is_frame else table for table in tables)))
    except RequestError as error:
        assert "x" in str(error) or "table" in str(error)
    tell(
        detect_drift({"x": [1.0, 2.0] * 9, "y": list("ab") * 9, "z": [True] * 18}, dict.fromkeys("xyz", tables[1]["x"]))
    )


def tell(report: DriftReport) -> None:
    """As the command does: on a terminal and as JSON (the page costs 0.2 s, and is tested in test_page.py)."""
    assert all(result.is_drifted == (result.verdict == "drifted") for result in report)
    print_drift(report, Console(file=io.StringIO(), force_terminal=True, width=80))
    json_text(report.to_json())


GOOD = {"a": np.arange(100.0), "b": ["x", "y"] * 50}
NONSENSE: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": ((None, GOOD), "table: must be a DataFrame, or columns by name, got 'NoneType'"),
    "an array": ((GOOD, np.zeros((3, 2))), "table: must be a DataFrame, or columns by name, got 'ndarray'"),
    "a series": ((GOOD, pd.Series([1, 2])), "got 'Series'"),
    "uneven": ((GOOD, {"a": [1, 2], "b": ["x"]}), "columns cannot stand side by side: All arrays must be of the same"),
    "a scalar": (({"a": 1}, GOOD), "columns cannot stand side by side"),
    "a set": ((GOOD, {"a": {1, 2}}), "columns cannot stand side by side: 'set' type is unordered"),
    "two dimensions": ((GOOD, {"a": np.zeros((3, 2))}), "columns cannot stand side by side"),
    "a name twice": ((pd.DataFrame([[1, 2]], columns=["a", "a"]), GOOD), "table: must have names of their own"),
    "a name twice, spelt": (({1: [1], "1": [1]}, GOOD), "table: must have names of their own for its columns"),
    "durations": (({"a": pd.to_timedelta([1, 2])}, GOOD), "column 'a': holds timedelta64 values"),
    "complex": (({"a": [1j, 2]}, GOOD), "column 'a': holds complex values"),
    "another window": ((GOOD, Window(Reference.of({"z": [1.0]}).profile)), "current: is a window over another profile"),
    **{
        f"threshold {threshold!r}": ((GOOD, GOOD, threshold), f"threshold: must lie between 0 and 1, got {threshold!r}")
        for threshold in (0, 1, -0.1, math.nan, "0.05", [0.05])
    },
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_with_a_reason(case: str):
    arguments, said = NONSENSE[case]
    with pytest.raises(RequestError) as caught:
        detect_drift(*arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ({}, GOOD, "undecided"),
        (GOOD, {}, "drifted"),
        (pd.DataFrame(), pd.DataFrame(), "undecided"),
        (GOOD, {"a": [], "b": []}, "undecided"),
        ({"a": [], "b": []}, GOOD, "undecided"),
        (GOOD, {"a": [[1]] * 100, "b": [{}] * 100}, "drifted"),
        (GOOD, {"a": [1j] * 100, "b": ["x", "y"] * 50}, "drifted"),
        ({"a": [1e308, -1e308] * 50}, {"a": [1e308, -1e308] * 50}, "undecided"),
        ({"a": [10**400] * 50}, {"a": [10**400, 3] * 50}, "drifted"),
        ({"a": [math.inf] * 50}, {"a": [1.0] * 50}, "drifted"),
        (pd.DataFrame([[1, 2]] * 9, columns=[("a", "b"), 3]), {"('a', 'b')": [1] * 9, "3": [2] * 9}, "undecided"),
    ],
)  # fmt: skip
def test_strange_tables_have_a_verdict(before: Any, now: Any, verdict: str):
    report = detect_drift(before, now)
    assert report.verdict == verdict
    tell(report)
