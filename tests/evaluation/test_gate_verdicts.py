"""Verdicts as values, and as JSON and back; the numbers in their sentences."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.evaluation.verdicts import SliceVerdict, Verdict, overall
from mlops_hydra.evaluation.wording import interval, num, signed

OLD = {
    "name": "mine",
    "metric": "test/accuracy",
    "value": 0.9,
    "threshold": 0.8,
    "direction": "higher",
    "verdict": "passed",
    "reason": "test/accuracy 0.9 >= 0.8",
}
SLICES = (
    SliceVerdict("DE", "failed", "test/accuracy is 0.6, must be >= 0.9", 50, value=0.6, low=-0.1, high=0.1),
    SliceVerdict(None, "undecided", "too few rows", 3, rows_to_decide=30),
)


def test_a_verdict_from_before_comparisons_is_read():
    assert Verdict.from_json(OLD) == Verdict(*OLD.values())


finite = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite, st.none() | st.integers(0), st.sampled_from([(), SLICES]))
def test_a_verdict_survives_json(low, high, rows, slices):
    verdict = replace(Verdict(**OLD), low=low, high=high, num_rows=rows, rows_to_decide=rows, slices=slices)
    again = Verdict.from_json(json.loads(json.dumps(asdict(verdict), allow_nan=False)))
    assert again == verdict
    assert hash(again) == hash(verdict)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"strange": 1}, TypeError),
        ({"slices": [{"strange": 1}]}, TypeError),
        ({"slices": None}, TypeError),
        ({"slices": [1]}, TypeError),
        ({"verdict": "fine"}, ValueError),
        ({"slices": [{**asdict(SLICES[0]), "verdict": "fine"}]}, ValueError),
    ],
)
def test_what_is_no_verdict_of_this_version_is_refused(damage, error):
    with pytest.raises(error):
        Verdict.from_json({**OLD, **damage})


def test_a_field_that_is_missing_is_refused():
    with pytest.raises(TypeError):
        Verdict.from_json({key: value for key, value in OLD.items() if key != "reason"})


def test_without_gates_nothing_failed():
    assert overall(()) == "passed"


@pytest.mark.parametrize(
    ("value", "text"), [(0.012, "+0.012"), (-0.3, "-0.3"), (0.0, "0"), (-0.0, "0"), (12345.6, "+12346")]
)
def test_differences_carry_their_sign(value, text):
    assert signed(value) == text


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_bounds_look_different_from_the_limit_where_they_are(low, high, limit):
    text, bar = interval(0.0, low, high, limit=limit, confidence=0.95)
    shown = text.partition("%: ")[2].removesuffix(")").split(" to ")
    for bound, told in zip((low, high), shown, strict=True):
        assert (told == bar) == (bound == limit)
        assert math.copysign(1, float(told) - float(bar)) == math.copysign(1, bound - limit) or bound == limit


def test_one_row_is_one_row():
    assert (num(1, "row"), num(0, "row"), num(1139, "row")) == ("1 row", "0 rows", "1,139 rows")
