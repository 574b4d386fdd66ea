"""`result.json` says everything that the object says, and comes back as it was."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.atomic import json_text
from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import TrackingError
from mlops_hydra.evaluation.gates import Verdict
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.lineage import Lineage

RESULT = Result(
    fingerprint="1234567e8901",
    run_id="f" * 32,
    status="new",
    reason="New run: nothing finished is recorded",
    task="binary",
    lineage=Lineage("a" * 64, "b" * 64, "c" * 64),
    metrics={"val/log_loss": 0.25, "test/accuracy": 0.9, "latency_p95_ms": 1.5},
    gates=(Verdict("mine", "test/accuracy", 0.9, 0.8, "higher", "passed", "0.9 >= 0.8"),),
    verdict="passed",
    objective=Objective("log_loss", "minimize"),
    best_epoch=3,
    num_epochs=5,
    folder=Path("runs") / "x",
    warnings=("3 rows are copies",),
)


def read_back(result: Result) -> Result:
    return Result.from_json(json.loads(json_text(result.as_json())), result.folder)


def test_what_was_written_is_read_back() -> None:
    assert read_back(RESULT) == RESULT


@given(value=st.floats(allow_nan=False, allow_infinity=False), run_id=st.none() | st.text())
def test_every_number_comes_back_bit_for_bit(value: float, run_id: str | None) -> None:
    result = dataclasses.replace(RESULT, metrics=RESULT.metrics | {"test/accuracy": value}, run_id=run_id)
    assert read_back(result) == result


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_and_comes_back_as_nan(value: float) -> None:
    result = dataclasses.replace(RESULT, metrics=RESULT.metrics | {"test/roc_auc": value})
    assert json.loads(json_text(result.as_json()))["metrics"]["test/roc_auc"] is None
    assert math.isnan(read_back(result).metrics["test/roc_auc"])


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("failed", 3), ("undecided", 4)])
def test_the_exit_code_is_that_of_the_verdict(verdict, code: int) -> None:
    assert dataclasses.replace(RESULT, verdict=verdict).exit_code == code


@pytest.mark.parametrize("key", [key for key in RESULT.as_json() if key != "intervals"])
@pytest.mark.parametrize("value", ["absent", 7, "text", [1], {"strange": 1}])
def test_whatever_is_damaged_is_refused_or_harmless(key: str, value: object) -> None:
    data = RESULT.as_json()
    data.pop(key)
    if value != "absent":
        data[key] = value
    try:
        result = Result.from_json(data, RESULT.folder)
    except TrackingError as error:
        assert "result.json is damaged, or of another version" in str(error)
        assert "reuse=never trains again" in str(error)
    else:
        assert value != "absent", "a key that is missing is a damage"
        assert json.loads(json_text(result.as_json())), "what is accepted can be written again"
        assert isinstance(result.exit_code, int)
