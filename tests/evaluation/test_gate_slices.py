"""Gates on slices: every value of a column is judged by itself, and the worst decides."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import Fault, MlopsHydraError, UsageError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.evidence import MAX_SLICES, Champion, Evidence
from mlops_hydra.evaluation.gates import judge
from mlops_hydra.evaluation.metrics import score

NAME = "wine@champion, version 3 (1a2b3c4d5e6f)"


def table(**countries):
    """Codes, probabilities and countries: of each country how many rows, and in how many the wrong class is named."""
    targets, named, column = [], [], []
    for country, (rows, wrong) in countries.items():
        codes = np.arange(rows) % 2
        targets.append(codes)
        named.append(np.where(np.arange(rows) < wrong, 1 - codes, codes))
        column += [None if country == "missing" else country] * rows
    codes, said = np.concatenate(targets), np.concatenate(named)
    return codes, np.where(said[:, None] == np.arange(2), 0.9, 0.1), np.array(column, dtype=object)


def evidence(on="test", champion=None, functions=None, **countries):
    targets, predictions, column = table(**countries)

    def values(split, name):
        if name != "country":
            raise UsageError(Fault(f"column {name!r}", "is not in the table", nearest=("country",)))
        return column

    return Evidence({on: Predicted(targets, predictions)}, values, champion, functions=functions or {}, resamples=200)


def judged(evidence, *, metrics=None, task="binary", **gate):
    gate = {"metric": "accuracy", "slice": "country", **gate}
    if metrics is None:
        metrics = {}
        for split, rows in evidence.predicted.items():
            metrics |= {f"{split}/{name}": value for name, value in score(task, rows.targets, rows.predictions).items()}
    config = {"mine": GateConfig(**gate)}
    (verdict,) = judge(config, metrics, task=task, objective=Objective("log_loss", "minimize"), evidence=evidence)
    return verdict


GOOD, BAD, SMALL = (100, 5), (50, 20), (12, 0)


@pytest.mark.parametrize(
    ("countries", "verdict", "worst", "reason"),
    [
        (
            {"FR": GOOD, "DE": (60, 5)},
            "passed",
            "DE",
            "country=DE, 60 rows: test/accuracy 0.9167 >= 0.9; the worst of 2 slices",
        ),
        ({"FR": GOOD}, "passed", "FR", "country=FR, 100 rows: test/accuracy 0.95 >= 0.9; the worst of 1 slice"),
        (
            {"FR": GOOD, "DE": BAD},
            "failed",
            "DE",
            "country=DE, 50 rows: test/accuracy is 0.6, must be >= 0.9; the worst of 2 slices",
        ),
        (
            {"FR": GOOD, "LI": SMALL},
            "undecided",
            "LI",
            "country=LI, 12 rows: too few rows to judge test/accuracy: 12, needs at least 30; the worst of 2 slices",
        ),
        (
            {"LI": SMALL, "FR": GOOD, "DE": BAD},
            "failed",
            "DE",
            "country=DE, 50 rows: test/accuracy is 0.6, must be >= 0.9; the worst of 3 slices"
            " (failed: DE; undecided: LI)",
        ),
        (
            {"FR": GOOD, "missing": BAD},
            "failed",
            None,
            "country=missing, 50 rows: test/accuracy is 0.6, must be >= 0.9; the worst of 2 slices",
        ),
        (
            {"A": BAD, "B": (50, 21), "C": (50, 22), "D": (50, 23), "E": (50, 24), "FR": GOOD},
            "failed",
            "E",
            "country=E, 50 rows: test/accuracy is 0.52, must be >= 0.9; the worst of 6 slices"
            " (failed: E, D, C and 2 more)",
        ),
    ],
)
def test_the_worst_slice_decides_and_the_reason_names_it(countries, verdict, worst, reason):
    found = judged(evidence(**countries), threshold=0.9)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert len(found.slices) == len(countries)
    first = found.slices[0]
    assert (first.slice, first.verdict, first.num_rows) == (worst, verdict, countries[worst or "missing"][0])
    assert (found.value, found.num_rows) == (first.value, first.num_rows)
    assert found.threshold == (None if verdict == "undecided" else 0.9)


def test_slices_stand_from_the_worst_to_the_best():
    found = judged(evidence(FR=GOOD, DE=BAD, LI=SMALL, IT=(100, 1), ES=(50, 25)), threshold=0.9)
    assert [one.slice for one in found.slices] == ["ES", "DE", "LI", "FR", "IT"]
    assert [one.verdict for one in found.slices] == ["failed", "failed", "undecided", "passed", "passed"]


def test_where_lower_is_better_the_highest_is_the_worst():
    found = judged(evidence(FR=GOOD, DE=BAD), metric="log_loss", threshold=0.5)
    assert (found.verdict, found.slices[0].slice, found.slices[1].verdict) == ("failed", "DE", "passed")


def test_a_value_named_missing_and_a_missing_value_are_two_slices():
    known = evidence(FR=(40, 0), missing=(40, 0))
    column = known.column("test", "country")
    column[:40] = "missing"
    assert [one.slice for one in judged(known, threshold=0.9).slices] in (["missing", None], [None, "missing"])


@pytest.mark.parametrize(("rows", "min_rows", "verdict"), [(29, 30, "undecided"), (30, 30, "passed"), (3, 2, "passed")])
def test_a_slice_of_too_few_rows_is_undecided(rows, min_rows, verdict):
    found = judged(evidence(FR=GOOD, LI=(rows, 0)), min_rows=min_rows, threshold=0.9)
    assert found.verdict == verdict
    assert found.rows_to_decide == (30 if verdict == "undecided" else None)


@pytest.mark.parametrize(("wish", "verdict"), [("pass", "passed"), ("fail", "failed"), (None, "undecided")])
def test_the_gate_says_what_becomes_of_small_slices(wish, verdict):
    found = judged(evidence(FR=GOOD, LI=SMALL), if_undecided=wish, threshold=0.9)
    assert found.verdict == verdict
    assert found.slices[0].verdict == "undecided"
    assert "too few rows to judge test/accuracy: 12, needs at least 30" in found.reason
    assert judged(evidence(FR=GOOD, LI=SMALL, DE=BAD), if_undecided=wish, threshold=0.9).verdict == "failed"


def test_a_slice_on_which_nothing_can_be_measured_fails():
    known = evidence(FR=GOOD, DE=(40, 0))
    known.predicted["test"].targets[100:] = 1  # balanced accuracy needs two classes
    found = judged(known, metric="balanced_accuracy", threshold=0.1, if_undecided="pass")
    assert (found.verdict, found.value, found.slices[0].slice) == ("failed", None, "DE")
    assert "could not be measured: it is nan" in found.reason


@pytest.mark.parametrize("gate", [{"threshold": 0.1}, {"better_than": "champion"}])
def test_a_column_that_is_not_there_fails_and_names_what_is(gate):
    found = judged(evidence(FR=GOOD), slice="contry", **gate)
    assert (found.verdict, found.slices) == ("failed", ())
    assert found.reason == "column 'contry': is not in the table. Did you mean country?"


def test_a_column_of_numbers_is_no_column_to_slice_by():
    countries = {f"c{number}": (1, 0) for number in range(MAX_SLICES + 1)}
    found = judged(evidence(**countries), threshold=0.1, min_rows=1, if_undecided="pass")
    assert (found.verdict, found.slices) == ("failed", ())
    assert found.reason == (
        "country has 201 values in 201 rows of test, at most 200 are judged one by one: it is no column to slice by"
    )


@pytest.mark.parametrize("shape", [(99,), (100, 1), ()])
def test_a_column_that_has_no_value_for_each_row_fails(shape):
    known = evidence(FR=GOOD)
    broken = Evidence(known.predicted, lambda *_: np.full(shape, "FR", dtype=object))
    found = judged(broken, threshold=0.1)
    assert (found.verdict, "no column to slice by" in found.reason) == ("failed", True)


def test_a_split_without_rows_has_no_slices():
    empty = Evidence({"test": Predicted(np.array([], dtype=int), np.empty((0, 2)))}, lambda *_: np.array([]))
    found = judged(empty, metrics={"test/accuracy": 0.9}, threshold=0.1)
    assert (found.verdict, found.reason) == ("failed", "there are no rows of test to slice")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, True])
def test_what_cannot_be_measured_as_a_whole_fails_on_slices_too(value):
    found = judged(evidence(FR=GOOD), metrics={"test/accuracy": value}, threshold=0.0)
    assert (found.verdict, found.value) == ("failed", None)


def test_without_rows_slices_fail_and_say_what_they_need():
    found = judged(None, metrics={"test/accuracy": 0.99}, threshold=0.1)
    assert found.reason == "test/accuracy needs the rows of test to be judged, and only numbers are at hand"
    assert found.verdict == "failed"


def test_slices_of_validation_are_those_of_validation():
    found = judged(evidence(on="val", FR=GOOD, DE=BAD), on="val", threshold=0.9)
    assert (found.metric, found.verdict, found.slices[0].slice) == ("val/accuracy", "failed", "DE")
    absent = judged(evidence(FR=GOOD), metrics={"val/accuracy": 1.0}, on="val", threshold=0.9)
    assert (absent.verdict, "rows of val" in absent.reason) == ("failed", True)


def test_a_metric_of_the_user_s_own_is_measured_on_each_slice():
    def hits(targets, predictions):
        return float((targets == predictions).mean())

    known = evidence(functions={"hits": hits}, FR=GOOD, DE=BAD)
    found = judged(known, metrics={"test/hits": 0.8}, metric="hits", direction="higher", threshold=0.9)
    assert (found.verdict, found.value, found.slices[1].value) == ("failed", 0.6, 0.95)


def test_a_metric_that_rows_do_not_have_fails_on_slices():
    found = judged(evidence(FR=GOOD), metrics={"test/hits": 1.0}, metric="hits", direction="higher", threshold=0.9)
    assert (found.verdict, "hits is not measured on rows" in found.reason) == ("failed", True)


def test_a_metric_of_the_user_s_own_that_fails_on_one_slice_fails_there_and_is_told():
    def picky(targets, predictions):
        if len(targets) == 50:
            raise ValueError("fifty is too few")
        return 1.0

    known = evidence(functions={"picky": picky}, FR=GOOD, DE=BAD)
    found = judged(known, metrics={"test/picky": 1.0}, metric="picky", direction="higher", threshold=0.9)
    assert (found.verdict, found.slices[0].slice, found.slices[1].verdict) == ("failed", "DE", "passed")
    assert "ValueError: fifty is too few" in found.reason


def test_a_regression_is_sliced_too():
    targets = np.linspace(0, 1, 80)
    predictions = targets + np.repeat([0.1, 0.5], 40)
    column = np.repeat(np.array(["near", "far"], dtype=object), 40)
    known = Evidence({"test": Predicted(targets, predictions)}, lambda *_: column)
    found = judged(known, task="regression", metric="rmse", threshold=0.2)
    assert (found.verdict, [one.slice for one in found.slices]) == ("failed", ["far", "near"])
    assert found.value == pytest.approx(0.5)


# Slices against the champion.


def champion_of(**countries):
    return Champion(NAME, lambda _: table(**countries)[1])


def test_both_models_are_compared_on_each_slice_and_one_that_got_worse_fails():
    known = evidence(champion=champion_of(FR=(200, 60), DE=(200, 0)), FR=(200, 0), DE=(200, 60))
    found = judged(known, no_worse_than="champion", tolerance=0.02)
    assert (found.verdict, found.compared_with) == ("failed", NAME)
    assert [(one.slice, one.verdict) for one in found.slices] == [("DE", "failed"), ("FR", "passed")]
    worst = found.slices[0]
    assert worst.low is not None
    assert worst.high is not None
    assert (found.low, found.high) == (worst.low, worst.high)
    assert worst.low <= -0.3 <= worst.high < -0.02
    assert found.reason.startswith(
        "country=DE, 200 rows: test/accuracy is 0.7, the champion has 1 on the same 200 rows: difference -0.3"
    )
    whole = judged(known, slice=None, no_worse_than="champion", tolerance=0.2)
    assert whole.verdict == "passed", "as a whole nothing got worse"


def test_small_slices_are_undecided_against_the_champion_too():
    known = evidence(champion=champion_of(FR=GOOD, LI=SMALL), FR=GOOD, LI=SMALL)
    found = judged(known, no_worse_than="champion", tolerance=0.1)
    assert [(one.slice, one.verdict) for one in found.slices] == [("LI", "undecided"), ("FR", "passed")]
    assert found.verdict == "undecided"


@pytest.mark.parametrize(("wish", "verdict"), [("pass", "passed"), ("fail", "failed")])
def test_without_a_champion_yet_slices_say_what_they_were_told_to(wish, verdict):
    found = judged(evidence(FR=GOOD, LI=SMALL), better_than="champion", if_no_champion=wish)
    assert (found.verdict, "no champion yet" in found.reason) == (verdict, True)


def test_a_champion_that_cannot_predict_fails_all_slices_at_once():
    def predict(split):
        raise MlopsHydraError("its bundle is damaged")

    found = judged(evidence(champion=Champion(NAME, predict), FR=GOOD), better_than="champion")
    assert (found.verdict, found.slices) == ("failed", ())
    assert found.reason == f"{NAME} cannot predict test: its bundle is damaged"


# Properties.

sizes = st.dictionaries(st.sampled_from("ABCDEF"), st.tuples(st.integers(1, 60), st.floats(0, 1)), min_size=1)


def counted(countries):
    return {name: (rows, round(share * rows)) for name, (rows, share) in countries.items()}


@given(sizes, st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_never_turns_a_pass_into_less(countries, first, second):
    known = evidence(**counted(countries))
    order = ["failed", "undecided", "passed"]
    lenient, harsh = (judged(known, threshold=t).verdict for t in sorted((first, second)))
    assert order.index(lenient) >= order.index(harsh)


@given(sizes, st.floats(0, 1))
def test_the_verdict_is_the_worst_of_the_slices_and_each_row_is_in_one(countries, threshold):
    found = judged(evidence(**counted(countries)), threshold=threshold)
    order = ["failed", "undecided", "passed"]
    assert found.verdict == min((one.verdict for one in found.slices), key=order.index)
    assert {one.slice: one.num_rows for one in found.slices} == {name: rows for name, (rows, _) in countries.items()}


@given(sizes, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(countries, threshold, random):
    known = evidence(**counted(countries))
    split, column = known.predicted["test"], known.column("test", "country")
    order = np.array(random.sample(range(len(column)), len(column)))
    shuffled = Evidence({"test": Predicted(split.targets[order], split.predictions[order])}, lambda *_: column[order])
    assert judged(shuffled, threshold=threshold) == judged(known, threshold=threshold)
