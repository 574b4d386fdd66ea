"""Gates against the champion: what an interval decides, and that a champion that cannot be asked never lets pass."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import MlopsHydraError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.evidence import Champion, Evidence
from mlops_hydra.evaluation.gates import judge
from mlops_hydra.evaluation.metrics import score

COMPARE = "mlops_hydra.evaluation.comparison.compare"
NAME = "wine@champion, version 3 (1a2b3c4d5e6f)"
ROWS = 400


@dataclass(frozen=True)
class Scripted:
    """A comparison that says what a test wants it to say."""

    candidate: float
    champion: float
    low: float
    high: float
    num_rows: int = ROWS
    needed: int | None = 1234

    def rows_to_decide(self, margin):
        return self.needed


def classes(share_right, *, rows=ROWS, seed=0):
    """Probabilities of two classes that name the right one in a share of the rows, and the codes."""
    targets = np.arange(rows) % 2
    wrong = np.random.default_rng(seed).permutation(rows) >= round(share_right * rows)
    named = np.where(wrong, 1 - targets, targets)
    return targets, np.where(named[:, None] == np.arange(2), 0.9, 0.1)


def no_column(split, name):
    raise MlopsHydraError(f"no column {name}")


def evidence(own=0.9, other=0.8, *, on="test", rows=ROWS, **changes):
    targets, predictions = classes(own, rows=rows)
    champion = Champion(NAME, lambda _: classes(other, rows=rows, seed=1)[1])
    return replace(Evidence({on: Predicted(targets, predictions)}, no_column, champion, resamples=200), **changes)


def judged(evidence, *, metrics=None, task="binary", objective=None, **gate):
    gate = {"metric": "accuracy", **gate}
    config = GateConfig(**gate)
    if metrics is None:
        metrics = {}
        for split, rows in evidence.predicted.items():
            metrics |= {f"{split}/{name}": value for name, value in score(task, rows.targets, rows.predictions).items()}
    objective = objective or Objective("log_loss", "minimize")
    (verdict,) = judge({"mine": config}, metrics, task=task, objective=objective, evidence=evidence)
    return verdict


BETTER, NO_WORSE = {"better_than": "champion"}, {"no_worse_than": "champion"}


@pytest.mark.parametrize(
    ("metric", "gate", "values", "bounds", "verdict", "limit"),
    [
        ("accuracy", BETTER, (0.95, 0.94), (0.003, 0.02), "passed", "must be > 0"),
        ("accuracy", BETTER, (0.95, 0.94), (0.0, 0.02), "undecided", "must be > 0"),
        ("accuracy", BETTER, (0.95, 0.94), (-0.003, 0.02), "undecided", "must be > 0"),
        ("accuracy", BETTER, (0.93, 0.94), (-0.02, 0.0), "failed", "must be > 0"),
        ("accuracy", BETTER, (0.93, 0.94), (-0.02, -0.003), "failed", "must be > 0"),
        ("accuracy", BETTER, (0.94, 0.94), (0.0, 0.0), "failed", "must be > 0"),
        ("accuracy", {**BETTER, "by": 0.0}, (0.94, 0.94), (0.0, 0.0), "failed", "must be > 0"),
        ("accuracy", {**BETTER, "by": 0.01}, (0.96, 0.94), (0.01, 0.03), "passed", "must be >= +0.01"),
        ("accuracy", {**BETTER, "by": 0.01}, (0.95, 0.94), (0.009, 0.02), "undecided", "must be >= +0.01"),
        ("accuracy", {**BETTER, "by": 0.01}, (0.945, 0.94), (0.001, 0.009), "failed", "must be >= +0.01"),
        ("accuracy", {**BETTER, "by": "10%"}, (0.7, 0.5), (0.05, 0.3), "passed", "must be >= +0.05 (10% of 0.5)"),
        ("accuracy", {**BETTER, "by": "10%"}, (0.6, 0.5), (0.04, 0.16), "undecided", "must be >= +0.05 (10% of 0.5)"),
        ("log_loss", BETTER, (0.2, 0.3), (-0.15, -0.01), "passed", "must be < 0"),
        ("log_loss", BETTER, (0.2, 0.3), (-0.15, 0.01), "undecided", "must be < 0"),
        ("log_loss", BETTER, (0.4, 0.3), (0.05, 0.15), "failed", "must be < 0"),
        ("log_loss", BETTER, (0.3, 0.3), (0.0, 0.0), "failed", "must be < 0"),
        ("log_loss", {**BETTER, "by": 0.1}, (0.1, 0.3), (-0.25, -0.1), "passed", "must be <= -0.1"),
        ("log_loss", {**BETTER, "by": 0.1}, (0.1, 0.3), (-0.25, -0.05), "undecided", "must be <= -0.1"),
        ("log_loss", {**BETTER, "by": 0.1}, (0.25, 0.3), (-0.09, -0.01), "failed", "must be <= -0.1"),
        ("log_loss", {**BETTER, "by": "50%"}, (0.1, 0.4), (-0.35, -0.2), "passed", "must be <= -0.2 (50% of 0.4)"),
        ("accuracy", {**NO_WORSE, "tolerance": 0.01}, (0.94, 0.94), (-0.01, 0.01), "passed", "must be >= -0.01"),
        ("accuracy", {**NO_WORSE, "tolerance": 0.01}, (0.94, 0.94), (-0.011, 0.01), "undecided", "must be >= -0.01"),
        ("accuracy", {**NO_WORSE, "tolerance": 0.01}, (0.92, 0.94), (-0.03, -0.01), "undecided", "must be >= -0.01"),
        ("accuracy", {**NO_WORSE, "tolerance": 0.01}, (0.92, 0.94), (-0.03, -0.011), "failed", "must be >= -0.01"),
        ("accuracy", {**NO_WORSE, "tolerance": 0.0}, (0.94, 0.94), (0.0, 0.0), "passed", "must be >= 0"),
        ("accuracy", {**NO_WORSE, "tolerance": 0.0}, (0.93, 0.94), (-0.02, 0.0), "undecided", "must be >= 0"),
        (
            "accuracy",
            {**NO_WORSE, "tolerance": "2%"},
            (0.5, 0.5),
            (-0.01, 0.2),
            "passed",
            "must be >= -0.01 (2% of 0.5)",
        ),
        ("log_loss", {**NO_WORSE, "tolerance": 0.05}, (0.3, 0.3), (-0.1, 0.05), "passed", "must be <= +0.05"),
        ("log_loss", {**NO_WORSE, "tolerance": 0.05}, (0.3, 0.3), (-0.1, 0.06), "undecided", "must be <= +0.05"),
        ("log_loss", {**NO_WORSE, "tolerance": 0.05}, (0.4, 0.3), (0.06, 0.2), "failed", "must be <= +0.05"),
        (
            "log_loss",
            {**NO_WORSE, "tolerance": "10%"},
            (0.4, 0.4),
            (-0.1, 0.04),
            "passed",
            "must be <= +0.04 (10% of 0.4)",
        ),
        ("f1", {**BETTER, "direction": "lower"}, (0.2, 0.3), (-0.2, -0.1), "passed", "must be < 0"),
        ("roc_auc", BETTER, (0.9, 0.8), (0.01, 0.2), "passed", "must be > 0"),
        ("calibration_error", BETTER, (0.1, 0.2), (0.01, 0.2), "failed", "must be < 0"),
        ("objective", BETTER, (0.2, 0.3), (-0.15, -0.01), "passed", "must be < 0"),
        ("objective", {**NO_WORSE, "tolerance": 0.0}, (0.4, 0.3), (0.01, 0.2), "failed", "must be <= 0"),
    ],
)
def test_the_interval_decides(monkeypatch, metric, gate, values, bounds, verdict, limit):
    monkeypatch.setattr(COMPARE, lambda *_, **__: Scripted(*values, *bounds))
    found = judged(evidence(), metric=metric, **gate)
    assert found.verdict == verdict, found.reason
    assert limit in found.reason.split(";")[0]
    assert found.reason.partition(limit)[2] == ("; about 1,234 rows would decide" if verdict == "undecided" else "")
    assert (found.value, found.low, found.high, found.num_rows) == (values[0], *bounds, ROWS)
    assert found.compared_with == NAME
    assert found.rows_to_decide == (1234 if verdict == "undecided" else None)


intervals = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted)
margins = st.floats(0, 0.5)


def decided(low, high, **gate):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(COMPARE, lambda *_, **__: Scripted(0.5 + (low + high) / 2, 0.5, low, high))
        return judged(evidence(rows=40), min_rows=1, **gate).verdict


@given(intervals, margins, margins)
def test_a_smaller_margin_and_a_larger_tolerance_never_turn_a_pass_into_less(interval, first, second):
    small, large = sorted((first, second))
    for lenient, harsh in [
        ({**BETTER, "by": small}, {**BETTER, "by": large}),
        ({**NO_WORSE, "tolerance": large}, {**NO_WORSE, "tolerance": small}),
        ({**NO_WORSE, "tolerance": small}, {**BETTER, "by": small}),
    ]:
        order = ["failed", "undecided", "passed"]
        assert order.index(decided(*interval, **lenient)) >= order.index(decided(*interval, **harsh))


@given(intervals, margins)
def test_what_holds_for_a_higher_metric_holds_mirrored_for_a_lower_one(interval, margin):
    low, high = interval
    for gate in ({**BETTER, "by": margin}, {**NO_WORSE, "tolerance": margin}):
        assert decided(low, high, **gate) == decided(-high, -low, direction="lower", **gate)


@pytest.mark.parametrize("hole", ["candidate", "champion", "low", "high"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gate", [BETTER, {**NO_WORSE, "tolerance": 0.5}], ids=["better", "no worse"])
@pytest.mark.parametrize("if_undecided", [None, "pass"])
def test_a_comparison_that_is_not_finite_never_passes(monkeypatch, hole, value, gate, if_undecided):
    said = replace(Scripted(0.9, 0.8, 0.05, 0.15), **{hole: value})
    monkeypatch.setattr(COMPARE, lambda *_, **__: said)
    found = judged(evidence(), if_undecided=if_undecided, **gate)
    assert found.verdict == "failed"
    assert all(number is None or math.isfinite(number) for number in (found.value, found.low, found.high))


def test_the_reason_reads_well_aloud(monkeypatch):
    said = Scripted(0.953, 0.941, 0.0031, 0.0209, num_rows=1139)
    monkeypatch.setattr(COMPARE, lambda *_, **__: said)
    assert judged(evidence(), **BETTER).reason == (
        "test/accuracy is 0.953, the champion has 0.941 on the same 1,139 rows: "
        "difference +0.012 (95 %: +0.0031 to +0.0209), must be > 0"
    )


def test_bounds_and_limit_look_different_when_they_are(monkeypatch):
    monkeypatch.setattr(COMPARE, lambda *_, **__: Scripted(0.94, 0.94, -0.0100004, 0.01))
    found = judged(evidence(), **NO_WORSE, tolerance=0.01)
    assert found.verdict == "undecided"
    assert "-0.0100004 to +0.01), must be >= -0.01;" in found.reason


def test_the_confidence_is_that_of_the_evidence_and_reaches_the_comparison(monkeypatch):
    asked = {}
    monkeypatch.setattr(COMPARE, lambda *_, **options: asked.update(options) or Scripted(0.9, 0.8, 0.05, 0.15))
    found = judged(evidence(confidence=0.999, seed=7, resamples=300), **BETTER)
    assert "(99.9 %: +0.05 to +0.15)" in found.reason
    assert asked == {"function": None, "resamples": 300, "confidence": 0.999, "seed": 7}


def test_rows_that_no_number_of_which_decides_are_not_promised(monkeypatch):
    monkeypatch.setattr(COMPARE, lambda *_, **__: Scripted(0.9, 0.9, -0.1, 0.1, needed=None))
    found = judged(evidence(), **BETTER)
    assert (found.verdict, found.rows_to_decide) == ("undecided", None)
    assert found.reason.endswith("; more rows like these may never decide")


@pytest.mark.parametrize(("wish", "verdict"), [("pass", "passed"), ("fail", "failed"), (None, "undecided")])
def test_what_is_undecided_is_what_the_gate_says_and_the_reason_keeps_it(monkeypatch, wish, verdict):
    monkeypatch.setattr(COMPARE, lambda *_, **__: Scripted(0.91, 0.9, -0.1, 0.12))
    found = judged(evidence(), if_undecided=wish, **BETTER)
    assert (found.verdict, found.rows_to_decide) == (verdict, 1234)
    assert found.reason.endswith("; about 1,234 rows would decide")
    assert found.reason.startswith(
        f"undecided, which this gate lets {wish} (if_undecided): test/" if wish else "test/accuracy is 0.91"
    )


@pytest.mark.parametrize("wish", ["pass", "fail", None])
def test_what_is_decided_is_not_touched_by_what_would_be_if_it_were_not(monkeypatch, wish):
    for low, high, verdict in [(0.1, 0.2, "passed"), (-0.2, -0.1, "failed")]:
        said = Scripted(0.5, 0.5 - (low + high) / 2, low, high)
        monkeypatch.setattr(COMPARE, lambda *_, said=said, **__: said)
        assert judged(evidence(), if_undecided=wish, **BETTER).verdict == verdict


# What stands in the way of a comparison.


@pytest.mark.parametrize(("wish", "verdict"), [("pass", "passed"), ("fail", "failed")])
@pytest.mark.parametrize("gate", [BETTER, {**NO_WORSE, "tolerance": 0.1}], ids=["better", "no worse"])
def test_without_a_champion_yet_the_gate_says_what_it_was_told_to(gate, wish, verdict):
    found = judged(evidence(champion=None), if_no_champion=wish, **gate)
    assert (found.verdict, found.value, found.compared_with) == (verdict, 0.9, None)
    assert found.reason == f"test/accuracy is 0.9, and there is no champion yet (if_no_champion: {wish})"


@pytest.mark.parametrize("wish", ["pass", "fail"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_not_even_without_a_champion_does_an_unmeasured_value_pass(wish, value):
    found = judged(evidence(champion=None), metrics={"test/accuracy": value}, if_no_champion=wish, **BETTER)
    assert (found.verdict, found.value) == ("failed", None)


@pytest.mark.parametrize("if_undecided", [None, "pass"])
@pytest.mark.parametrize("is_at_hand", [True, False])
def test_a_champion_that_cannot_be_loaded_fails_whatever_the_gate_says(if_undecided, is_at_hand):
    why = "version 3 cannot be loaded: its bundle is damaged"
    known = evidence(no_champion=why) if is_at_hand else evidence(champion=None, no_champion=why)
    found = judged(known, if_undecided=if_undecided, **BETTER)
    assert found.verdict == "failed"
    assert found.reason == f"test/accuracy is 0.9, and the champion cannot be asked: {why}"


def test_the_champion_itself_need_not_beat_itself():
    def never(split):
        raise AssertionError("nothing is to be predicted")

    found = judged(evidence(champion=Champion(NAME, never, is_candidate=True)), **BETTER)
    assert (found.verdict, found.compared_with, found.value) == ("passed", NAME, 0.9)
    assert "the champion itself" in found.reason


def raising(error):
    def predict(split):
        raise error

    return predict


def with_hole(split):
    predictions = classes(0.9)[1]
    predictions[[3, 5]] = np.nan
    return predictions


@pytest.mark.parametrize(
    ("predict", "told"),
    [
        (raising(MlopsHydraError("column age\n is missing")), "cannot predict test: column age is missing"),
        (raising(KeyError("age")), "cannot predict test: KeyError: 'age'"),
        (lambda _: "nonsense", "cannot predict test: ValueError: could not convert string to float: 'nonsense'"),
        (lambda _: None, "gives predictions of shape () for test, the candidate of shape (400, 2)"),
        (lambda _: classes(0.9, rows=399)[1], "gives predictions of shape (399, 2) for test"),
        (lambda _: classes(0.9)[1][:, :1], "gives predictions of shape (400, 1) for test"),
        (lambda _: np.full((ROWS, 3), 1 / 3), "gives predictions of shape (400, 3) for test"),
        (lambda _: classes(0.9)[0], "gives predictions of shape (400,) for test"),
        (lambda _: np.full((ROWS, 2), np.nan), "not finite in 400 of 400 rows"),
        (lambda _: np.full((ROWS, 2), np.inf), "not finite in 400 of 400 rows"),
        (with_hole, "not finite in 2 of 400 rows"),
    ],
)
@pytest.mark.parametrize("gate", [BETTER, {**NO_WORSE, "tolerance": 1.0, "if_undecided": "pass"}], ids=["better", "no"])
def test_a_champion_that_says_nothing_usable_fails_the_gate(predict, told, gate):
    found = judged(evidence(champion=Champion(NAME, predict)), **gate)
    assert (found.verdict, found.compared_with, found.value) == ("failed", NAME, 0.9)
    assert told in found.reason
    assert NAME in found.reason
    assert "\n" not in found.reason


def test_a_champion_that_gives_no_probabilities_fails_the_gate():
    champion = Champion(NAME, lambda _: 5 * classes(0.9, seed=1)[1])
    found = judged(evidence(champion=champion), metric="log_loss", **NO_WORSE, tolerance=100.0)
    assert found.verdict == "failed"
    assert found.reason.startswith(f"{NAME} cannot be measured on test: predictions[0]: probabilities are positive")


@pytest.mark.parametrize("works", [True, False])
def test_the_champion_predicts_each_split_once_however_many_gates_ask(works):
    asked = []

    def predict(split):
        asked.append(split)
        if not works:
            raise MlopsHydraError("no")
        return classes(0.8, seed=1)[1]

    targets, predictions = classes(0.9)
    both = {split: Predicted(targets, predictions) for split in ("test", "val")}
    gates = {
        f"{metric} {on}": GateConfig(metric=metric, better_than="champion", on=on)
        for metric in ("accuracy", "log_loss")
        for on in ("test", "val")
    }
    metrics = {f"{on}/{metric}": 0.9 for metric in ("accuracy", "log_loss") for on in both}
    known = evidence(predicted=both, champion=Champion(NAME, predict))
    judge(gates, metrics, task="binary", objective=Objective("log_loss", "minimize"), evidence=known)
    assert sorted(asked) == ["test", "val"]


def test_a_gate_that_needs_no_champion_does_not_ask_it():
    found = judged(evidence(champion=Champion(NAME, raising(AssertionError("not asked")))), threshold=0.5)
    assert found.verdict == "passed"


@pytest.mark.parametrize(("rows", "min_rows", "verdict"), [(29, 30, "undecided"), (30, 30, "passed"), (5, 5, "passed")])
def test_a_comparison_on_too_few_rows_is_undecided(rows, min_rows, verdict):
    found = judged(evidence(1.0, 0.0, rows=rows), min_rows=min_rows, **BETTER)
    assert found.verdict == verdict
    if verdict == "undecided":
        assert (found.num_rows, found.rows_to_decide) == (29, 30)
        assert found.reason == "too few rows to judge test/accuracy: 29, needs at least 30"


def test_without_rows_a_comparison_fails_and_says_what_it_needs():
    found = judged(None, metrics={"test/accuracy": 0.99}, **BETTER)
    assert found.verdict == "failed"
    assert found.reason == "test/accuracy needs the rows of test to be judged, and only numbers are at hand"


def test_rows_of_another_split_are_not_enough():
    found = judged(evidence(), metrics={"val/accuracy": 0.99}, on="val", **BETTER)
    assert found.verdict == "failed"
    assert found.reason == "needs the rows of val, which are not at hand (there are those of: test)"


# With the statistics that are used.


@pytest.mark.parametrize("on", ["test", "val"])
@pytest.mark.parametrize(
    ("own", "other", "better", "no_worse"),
    [(0.99, 0.5, "passed", "passed"), (0.5, 0.99, "failed", "failed"), (0.8, 0.8, "undecided", "undecided")],
)
def test_models_far_apart_are_told_apart_and_models_alike_are_not(own, other, better, no_worse, on):
    known = evidence(own, other, on=on)
    assert judged(known, on=on, **BETTER).verdict == better
    assert judged(known, on=on, **NO_WORSE, tolerance=0.001).verdict == no_worse


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "average_precision", "log_loss"])
def test_every_metric_is_compared_in_its_own_direction(metric):
    assert judged(evidence(0.99, 0.5), metric=metric, **BETTER).verdict == "passed"
    assert judged(evidence(0.5, 0.99), metric=metric, **BETTER).verdict == "failed"


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
def test_regressions_are_compared_too(metric):
    targets = np.random.default_rng(0).normal(size=ROWS)
    near, far = (targets + scale * np.random.default_rng(1).normal(size=ROWS) for scale in (0.1, 1.0))
    for own, other, verdict in [(near, far, "passed"), (far, near, "failed")]:
        champion = Champion(NAME, lambda _, other=other: other)
        known = evidence(predicted={"test": Predicted(targets, own)}, champion=champion)
        found = judged(known, metric=metric, task="regression", objective=Objective("rmse", "minimize"), **BETTER)
        assert found.verdict == verdict, found.reason


def test_an_undecided_comparison_says_how_many_rows_it_needs():
    found = judged(evidence(0.82, 0.8), **BETTER)
    assert found.verdict == "undecided"
    assert found.rows_to_decide is not None
    assert found.rows_to_decide > ROWS
    assert f"about {found.rows_to_decide:,} rows would decide" in found.reason


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_same_predictions_are_not_better_and_no_worse(metric):
    own = classes(0.9)[1]
    known = evidence(champion=Champion(NAME, lambda _: own.copy()))
    better = judged(known, metric=metric, **BETTER)
    assert (better.verdict, better.low, better.high) == ("failed", 0, 0)
    assert "difference 0 (95 %: 0 to 0), must be" in better.reason
    assert judged(known, metric=metric, **NO_WORSE, tolerance=0.0).verdict == "passed"


def test_a_metric_of_the_user_s_own_is_compared_in_the_direction_given():
    def hits(targets, predictions):
        return float((targets == predictions).sum())

    known = evidence(0.99, 0.5, functions={"hits": hits})
    verdict = {
        direction: judged(known, metrics={"test/hits": 396.0}, metric="hits", direction=direction, **BETTER).verdict
        for direction in ("higher", "lower")
    }
    assert verdict == {"higher": "passed", "lower": "failed"}


def test_a_metric_of_the_user_s_own_that_is_not_at_hand_or_breaks_fails():
    gate = {"metric": "hits", "direction": "higher", **BETTER}
    absent = judged(evidence(), metrics={"test/hits": 1.0}, **gate)
    assert (absent.verdict, "got 'hits'" in absent.reason) == ("failed", True)
    broken = judged(evidence(functions={"hits": lambda *_: 1 / 0}), metrics={"test/hits": 1.0}, **gate)
    assert (broken.verdict, "ZeroDivisionError" in broken.reason) == ("failed", True)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_no_champion_passes_with_a_prediction_that_is_not_finite(own, other, position):
    predictions = classes(other, rows=40, seed=1)[1]
    predictions[position, position % 2] = np.nan
    known = evidence(own, rows=40, champion=Champion(NAME, lambda _: predictions))
    assert judged(known, if_undecided="pass", **NO_WORSE, tolerance=1.0).verdict == "failed"
