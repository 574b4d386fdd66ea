"""Verdicts: significant among all tests of the check, and as large as what matters."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from mlops_hydra.atomic import json_text
from mlops_hydra.config.drift import MonitoringConfig, default_rules
from mlops_hydra.errors import UsageError
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.profile import CategoryCounts, CategoryProfile, Moments, Profile
from mlops_hydra.monitoring.profiling import profile_columns
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.result import DriftReport, DriftResult
from mlops_hydra.monitoring.window import Window

Table = Mapping[str, Any]
N = 2000


def rules(**changes: Any) -> MonitoringConfig:
    """The defaults but for these; `min_effect` and `must_see` may be given in part."""
    found = default_rules()
    for name in ("min_effect", "must_see"):
        changes[name] = getattr(found, name).model_copy(update=changes.get(name, {}))
    return found.model_copy(update=changes)


def check(before: Table | Reference, now: Table, **changes: Any) -> DriftReport:
    reference = before if isinstance(before, Reference) else Reference.of(before)
    window = Window(reference.profile)
    window.add(now, max(map(len, now.values()), default=0))
    return judge(reference, window, rules(**changes))


def only(report: DriftReport, feature: str = "x", test: str = "ks") -> DriftResult:
    (found,) = (result for result in report if (result.feature, result.test) == (feature, test))
    return found


def bell(n: int = N, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Evenly spaced quantiles of a normal distribution in random order: its statistics are what they should be."""
    from scipy.special import ndtri

    return np.random.default_rng(seed).permutation(ndtri((np.arange(n) + 0.5) / n) + shift)


def cities(*shares: float, n: int = N) -> np.ndarray:
    return np.repeat(["Bonn", "Köln", "Ulm"][: len(shares)], np.round(np.array(shares) * n).astype(int)).astype(object)


# --- significant, and large enough to matter


def test_what_is_significant_and_large_has_drifted():
    report = check({"x": bell(), "y": bell(seed=1)}, {"x": bell(shift=0.4), "y": bell(seed=2)})
    assert (report.verdict, report.exit_code, report.drifted) == ("drifted", 5, ("x",))
    x, y = only(report), only(report, "y")
    assert (x.verdict, x.is_drifted, y.verdict, y.is_drifted) == ("drifted", True, "stable", False)
    assert x.p_value < x.adjusted_p < 0.05 < y.adjusted_p
    assert x.effect == pytest.approx(0.4, rel=0.05) and (x.unit, x.min_effect) == ("spreads", 0.05)
    assert x.statistic == pytest.approx(0.1585, abs=0.01)
    assert (x.num_reference, x.num_current) == (N, N)
    assert re.fullmatch(r"median 0\.\d+, was -?0\.0\d*", x.reason) and not y.reason
    assert set(report.pictures) == {("feature", "x")}


@pytest.mark.parametrize(
    ("before", "now", "test"),
    [
        (bell(100_000), bell(100_000, 0.03), "ks"),
        (cities(0.3, 0.7, n=100_000), cities(0.32, 0.68, n=100_000), "chi_square"),
    ],
)
def test_what_is_significant_but_small_is_stable_until_it_matters(before, now, test: str):
    reference = Reference.of({"x": before})
    found = only(check(reference, {"x": now}), test=test)
    assert found.verdict == "stable" and found.adjusted_p < 1e-5 and 0.015 < found.effect < found.min_effect == 0.05
    strict = only(check(reference, {"x": now}, min_effect={"numeric": 0.01, "categorical": 0.01}), test=test)
    assert strict.verdict == "drifted" and strict.reason
    assert only(check(reference, {"x": now}, by_column={"x": 0.01}), test=test).verdict == "drifted"


def test_the_same_column_drifts_among_few_and_not_among_many():
    """p * 4 tests against p * 160: adjusted together, over all tests of the check."""
    rng = np.random.default_rng(0)
    before, now = bell(), bell(300, 0.27)
    few = check({"x": before}, {"x": now})
    others = {f"c{i}": rng.permutation(before) for i in range(39)}
    many = check({"x": before, **others}, {"x": now, **{name: bell(300, seed=i) for i, name in enumerate(others)}})
    assert (few.num_tests, many.num_tests) == (4, 160)
    assert only(few).p_value == only(many).p_value
    assert only(few).adjusted_p == pytest.approx(4 * only(few).p_value) and only(few).is_drifted
    assert only(many).adjusted_p > 10 * only(few).adjusted_p and not only(many).is_drifted


def test_how_many_tests_there_are_does_not_depend_on_the_data():
    before = {"x": bell(), "c": cities(0.5, 0.5), "d": np.datetime64("2024-01-01") + np.arange(N)}
    clean = check(before, before)
    dirty = check(before, {"x": [None, "x", math.inf, 99.0] * 50, "c": ["Rom", None] * 100, "d": [None, "x"] * 100})
    assert clean.num_tests == dirty.num_tests == 3 * 4 + 1
    assert len(dirty) > len(clean) == 4


def test_the_worst_comes_first():
    names = ("little", "much", "same", "gone")
    report = check(
        {name: bell() for name in names}, {"little": bell(shift=0.3), "much": bell(shift=2), "same": bell(seed=1)}
    )
    seen = list(dict.fromkeys(result.feature for result in report))
    assert seen == ["gone", "much", "little", "same"]
    assert report.drifted == ("gone", "much", "little")
    few = check({"a": bell(), "b": bell()}, {"a": bell(10, 3), "b": bell(10)})
    assert list(dict.fromkeys(result.verdict for result in few)) == ["drifted", "undecided"]


# --- too few rows


@pytest.mark.parametrize("num_reference", [400, 2000, 50_000])
def test_too_few_rows_leave_it_undecided_and_with_as_many_as_are_asked_for_it_is_decided(num_reference: int):
    reference = Reference.of({"x": bell(num_reference), "y": bell(num_reference)})
    few = check(reference, {"x": bell(20), "y": bell(20)})
    assert few.verdict == "undecided" and few.exit_code == 4
    found = only(few)
    assert found.detectable > 0.5, "standard deviations"
    needed = int(re.match(r"too few rows: ([\d,]+) would show 0\.5 spreads", found.reason)[1].replace(",", ""))
    assert check(reference, {"x": bell(needed - 1), "y": bell(needed - 1)}).verdict == "undecided"
    enough = check(reference, {"x": bell(needed), "y": bell(needed)})
    assert enough.verdict == "stable" and only(enough).detectable <= 0.5
    rng = np.random.default_rng(0)
    drawn = [check(reference, {"x": rng.normal(0.5, 1, needed), "y": bell(needed)}) for _ in range(40)]
    assert np.mean([only(report).is_drifted for report in drawn]) > 0.7, "4 of 5 of such a shift are found"


def test_a_reference_that_is_too_small_is_told_as_such():
    found = only(check({"x": bell(15)}, {"x": bell(100_000)}))
    assert (found.verdict, found.reason) == ("undecided", "too few rows: more of the reference are needed, too")


def test_few_rows_suffice_for_what_is_plain():
    assert check({"x": bell()}, {"x": bell(12, 4)}).verdict == "drifted"


def test_a_few_rows_of_rare_categories_cannot_be_told():
    ids = np.random.default_rng(0).integers(0, 5000, N + 3).astype(str).astype(object)
    report = check({"x": ids[:N]}, {"x": ids[N:]})
    assert report.verdict == "undecided" and only(report, test="chi_square").reason


def test_an_empty_table_is_undecided_in_every_column_whatever_is_asked_for():
    report = check({"x": bell(), "c": cities(1.0)}, {"x": [], "c": []})
    assert report.exit_code == 4 and report.num_current_rows == 0
    assert {(each.feature, each.test, each.reason) for each in report} == {
        ("x", "column", "there are no rows"), ("c", "column", "there are no rows"),
    }  # fmt: skip
    assert check({}, {}).verdict == "undecided"
    assert check({"x": bell()}, {}).verdict == "drifted", "a table without the column has drifted, rows or not"


# --- what the table itself is like


def days(*, weekends: bool, n: int = N) -> list[datetime]:
    every = [datetime(2024, 1, 1) + timedelta(days=i % 364, hours=i % 5) for i in range(2 * n)]
    return [day for day in every if weekends or day.weekday() < 5][:n]


NONE = np.full(N, np.nan)
CASES: dict[str, tuple[Any, Any, dict[str, str], str]] = {
    "all null": (bell(), NONE, {"missing": "drifted", "ks": "undecided"}, "all missing, was 0 %"),
    "all null, as objects": (cities(0.5, 0.5), np.full(N, None), {"missing": "drifted"}, "all missing, was 0 %"),
    "no longer null": (NONE, bell(), {"missing": "drifted", "ks": "undecided"}, "0 % missing, was 100 %"),
    "null before and now": (NONE, NONE, {"missing": "stable", "ks": "undecided"}, ""),
    "missing more often": (
        bell(), np.where(np.arange(N) % 20, bell(seed=1), np.nan), {"missing": "drifted", "ks": "stable"},
        "5 % missing, was 0 %",
    ),
    "a few missing": (bell(), [None, *bell(N - 1)], {"missing": "stable", "ks": "stable"}, ""),
    "text for numbers": (
        bell(), cities(0.5, 0.5), {"unreadable": "drifted"}, "another type: 2,000 are not a number, of 2,000",
    ),
    "numbers as text": (bell(), np.array([f" {x:.17g}" for x in bell()]), {"ks": "stable"}, ""),
    "some text": (
        bell(), [*bell(N - 100), *["?"] * 100], {"unreadable": "drifted", "ks": "stable"},
        "100 are not a number, of 2,000",
    ),
    "numbers for text": (
        cities(0.5, 0.5), bell(), {"new_categories": "drifted", "chi_square": "drifted"},
        r"100 % in categories that training did not show: .*",
    ),
    "lists for text": (
        cities(0.5, 0.5), [["Bonn"]] * N, {"unreadable": "drifted"},
        "another type: 2,000 are not a plain value, of 2,000",
    ),
    "text for flags": (
        [True, False] * 50, ["yes"] * 100, {"unreadable": "drifted"},
        "another type: 100 are not true or false, of 100",
    ),
    "garbage for dates": (
        days(weekends=True), ["soon"] * N, {"unreadable": "drifted"}, "another type: 2,000 are not a date, of 2,000",
    ),
    "infinite": (
        bell(), [*bell(N - 100), *[math.inf] * 100], {"unreadable": "drifted"}, "100 are infinite, of 2,000",
    ),
    "infinite before, too": (
        [*bell(N - 100), *[math.inf] * 100], [*bell(N - 100), *[math.inf] * 100], {"unreadable": "stable"}, "",
    ),
    "all infinite before": (np.full(N, np.inf), bell(), {"unreadable": "drifted"}, "fewer than before, of 2,000"),
    "constant now": (bell(), np.zeros(N), {"ks": "drifted"}, "nearly constant: all values at about .*"),
    "constant before": (np.full(N, 7.0), bell() + 7, {"ks": "drifted"}, "100 % are not 7, which all were before"),
    "constant before, and a bit now": (np.full(N, 7.0), [7.0] * 1940 + [8.0] * 60, {"ks": "stable"}, ""),
    "the same constant": (np.full(N, 7.0), np.full(N, 7.0), {"ks": "stable"}, ""),
    "the same category": (cities(1.0), cities(1.0), {"chi_square": "stable"}, ""),
    "new categories": (
        cities(0.5, 0.5), [*cities(0.48, 0.48), *["Rom"] * 40, *["Oslo"] * 40],
        {"new_categories": "drifted", "chi_square": "stable"},
        "4 % in categories that training did not show: Rom, Oslo",
    ),
    "another mix": (
        cities(0.5, 0.3, 0.2), cities(0.2, 0.3, 0.5), {"chi_square": "drifted"},
        "Bonn 20 %, was 50 %; Ulm 50 %, was 20 %",
    ),
    "out of range": (
        bell(), [*bell(N - 100), *[50.0] * 60, *[-70.0] * 40], {"range": "drifted"},
        r"2 % below -3\.481 and 3 % above 3\.481",
    ),
    "no weekends": (
        days(weekends=True), days(weekends=False), {"weekday": "drifted"},
        r"(Saturday|Sunday) 0 %, was 14\.\d %; .*",
    ),
    "wider": (bell(), 3 * bell(), {"ks": "drifted"}, r"middle 80 % from -3\.\d+ to 3\.\d+, was -1\.2\d* to 1\.2\d*|.*"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_column_is_a_verdict(case: str):
    before, now, verdicts, reason = CASES[case]
    report = check({"x": before}, {"x": now})
    found = {result.test: result for result in report}
    assert {test: found[test].verdict for test in verdicts} == verdicts
    decisive = next(iter(verdicts))
    assert re.fullmatch(reason, found[decisive].reason), found[decisive].reason
    assert "drifted" not in verdicts.values() or report.verdict == "drifted"
    assert json.loads(json_text(report.to_json()))["verdict"] == report.verdict


def test_dates_of_the_same_range_may_differ_in_their_weekdays_alone():
    report = check({"x": days(weekends=True)}, {"x": days(weekends=False)})
    assert {result.test for result in report if result.is_drifted} == {"weekday"}
    assert only(report).verdict == "stable"


def test_a_column_that_is_gone_has_drifted_and_one_too_many_is_noted():
    report = check({"x": bell(), "y": bell()}, {"y": bell(), "z": bell(), **{f"n{i}": bell() for i in range(20)}})
    gone = only(report, test="column")
    assert (gone.verdict, gone.reason, gone.num_reference) == ("drifted", "the column is missing", N)
    (note,) = report.notes
    assert note.startswith("columns that the model does not read: n0, ") and note.endswith(" and 11 more")


# --- which features, and how strictly


def test_columns_that_are_not_looked_at_do_not_drift_and_are_noted():
    before = {name: bell() for name in "abc"}
    now = {"a": bell(shift=1), "b": bell(shift=1), "c": bell(seed=1)}
    assert check(before, now).drifted == ("a", "b")
    assert check(before, now, ignore=("a",)).drifted == ("b",)
    report = check(before, now, columns=("a", "c"), ignore=("a",))
    assert report.verdict == "stable" and {result.feature for result in report} == {"c"} and report.num_tests == 4
    assert report.notes == ("features that were not looked at: a, b",)
    assert check(before, {"c": bell()}, ignore=("a", "b")).verdict == "stable", "nor need they be there"
    assert check(before, now, columns=()).verdict == "undecided"


def test_a_column_may_have_a_limit_of_its_own():
    before, now = {"x": bell(), "c": cities(0.5, 0.5)}, {"x": bell(shift=0.4), "c": cities(0.4, 0.6)}
    assert set(check(before, now).drifted) == {"c", "x"}
    report = check(before, now, by_column={"x": 0.5})
    assert report.drifted == ("c",) and only(report).min_effect == 0.5
    assert check(before, now, by_column={"c": 0.2}).drifted == ("x",)


def test_names_that_no_feature_has_are_told_at_once_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        check({"age": bell()}, {"age": bell()}, columns=("aeg",), ignore=("agee",), by_column={"zip": 1.0})
    assert [str(fault) for fault in caught.value.faults] == [
        "monitoring.columns: no such feature, got 'aeg'. Did you mean age?",
        "monitoring.ignore: no such feature, got 'agee'. Did you mean age?",
        "monitoring.by_column: no such feature, got 'zip'",
    ]


# --- what the model makes of it


def with_model(*, error_rate: float = 0.1, n: int = 1000) -> Profile:
    """Of a feature, of two classes that are as frequent, and of a test split of n rows."""
    (x,) = profile_columns({"x": bell()}, {"x": "numeric"}, bins=128, max_categories=1, num_rows=N)
    (confidence,) = profile_columns(
        {"confidence": np.linspace(0.5, 1, N)}, {"confidence": "numeric"}, bins=128, max_categories=1, num_rows=N
    )
    prediction = CategoryProfile("prediction", "categorical", ("bad", "good"), CategoryCounts(np.array([500, 500, 0])))
    losses = {"error_rate": Moments.of(errors(error_rate, n)), "log_loss": Moments.of(errors(error_rate, n) + 0.1)}
    return Profile(N, (x,), (prediction, confidence), losses)


def errors(rate: float, n: int) -> np.ndarray:
    return (np.arange(n) < round(rate * n)).astype(float)


def answered(profile: Profile, *, bad: float = 0.5, rate: float | None = None, n: int = 1000) -> DriftReport:
    """n rows of which the model calls so many bad, and errs at this rate where there are labels."""
    window = Window(profile)
    window.add({"x": bell(n)}, n)
    called = np.where(errors(bad, n) > 0, "bad", "good").astype(object)
    window.add_outputs({"prediction": called, "confidence": np.linspace(0.5, 1, n)})
    if rate is not None:
        window.add_losses({"error_rate": errors(rate, n), "log_loss": errors(rate, n) + 0.1})
    return judge(Reference(profile), window, rules())


def test_predictions_drift_although_no_feature_does():
    profile = with_model()
    report = answered(profile, bad=0.7)
    (found,) = (result for result in report if result.is_drifted)
    assert (found.part, found.feature) == ("prediction", "prediction")
    assert found.reason == "good 30 %, was 50 %; bad 70 %, was 50 %"
    assert report.pictures[("prediction", "prediction")].labels == ("bad", "good", "(others)")
    assert answered(profile).verdict == "stable"


def test_without_predictions_they_are_not_tested():
    profile = with_model()
    window = Window(profile)
    window.add({"x": bell()}, N)
    report = judge(Reference(profile), window, rules())
    assert report.verdict == "stable" and report.num_tests == 4 and {result.part for result in report} == {"feature"}


def test_a_model_that_errs_more_has_drifted_and_one_that_errs_less_has_not():
    profile = with_model()
    worse = {result.feature: result for result in answered(profile, rate=0.2) if result.part == "performance"}
    assert all(result.is_drifted and result.effect > 0.4 for result in worse.values()) and len(worse) == 2
    assert worse["error_rate"].reason == "20 % on labelled rows, was 10 % on the test split"
    for rate in (0.1, 0.05, 0.0):
        assert answered(profile, rate=rate).verdict == "stable"
    assert answered(profile, rate=0.4, n=20).verdict == "drifted"
    few = answered(profile, rate=0.1, n=20)
    assert only(few, "error_rate", "loss").verdict == "undecided"


def test_more_errors_than_none_are_told_without_dividing_by_zero():
    perfect = with_model(error_rate=0.0)
    report = answered(perfect, rate=0.05)
    found = only(report, "error_rate", "loss")
    assert found.is_drifted and found.effect == math.inf
    assert found.reason == "5 % on labelled rows, was 0 % on the test split"
    assert json.loads(json_text(report.to_json()))["results"][0]["feature"] == "error_rate"
    assert answered(perfect, rate=0.0).verdict == "stable"


@pytest.mark.parametrize(
    "moments",
    [Moments(2**53, 0.1, 0.09), Moments(1000, math.nan, 0.0), Moments(1000, 7.0, 1e308), Moments(1, 0.0, 0.0)],
)
def test_a_profile_of_a_stranger_may_claim_any_losses(moments: Moments):
    """scipy would count 2**53 rows for minutes."""
    profile = with_model()
    claimed = Profile(N, profile.features, profile.outputs, dict.fromkeys(profile.losses, moments))
    report = answered(claimed, rate=0.5)
    json_text(report.to_json())
    assert (report.verdict == "drifted") == (moments.n > 1000)


def test_windows_of_parts_give_the_verdict_of_the_whole():
    profile = with_model()

    def window(rows: slice) -> Window:
        found = Window(profile)
        x = bell(1000, 0.2)[rows]
        found.add({"x": x}, len(x))
        found.add_outputs({"prediction": np.where(x > 0, "bad", "good").astype(object), "confidence": x})
        found.add_losses({"error_rate": errors(0.3, 1000)[rows], "log_loss": errors(0.3, 1000)[rows]})
        return found

    say: Callable[[Window], list[DriftResult]] = lambda w: list(judge(Reference(profile), w, rules()))  # noqa: E731
    whole, parts = say(window(slice(None))), say(window(slice(0, 77)).merged(window(slice(77, None))))
    for one, other in zip(whole, parts, strict=True):
        names = ("feature", "test", "verdict", "reason")
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
        assert one.p_value == pytest.approx(other.p_value, rel=1e-9)
