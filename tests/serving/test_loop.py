"""The whole way: train, gate, promote, serve; then what is asked changes, and everybody who looks says so."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.cli import main
from mlops_hydra.tracking.recorded import local_runs
from tests.serving.conftest import Service

NAME = "credit"
SHIFT = 1.5  # standard deviations


def table(size: int, seed: int, *, shift: float = 0.0) -> pd.DataFrame:
    """Whose `income` can be shifted."""
    rng = np.random.default_rng(seed)
    numbers = {"age": rng.normal(45, 12, size), "income": rng.normal(50, 10, size), "debt": rng.exponential(9, size)}
    frame = pd.DataFrame(numbers).round(2).assign(city=rng.choice(["Bonn", "Oslo", "Rome"], size))
    repaid = frame["income"] - frame["debt"] + rng.normal(0, 5, size) > 41
    frame["income"] += round(shift * 10, 2)
    return frame.assign(repaid=np.where(repaid, "yes", "no"))


def send(service: Service, rows: pd.DataFrame) -> None:
    """As many in a request as it takes."""
    records = rows.drop(columns="repaid").to_dict("records")
    for start in range(0, len(records), 1000):
        status, answer = service.ask("/predict", {"rows": records[start : start + 1000]})
        assert status == 200, answer


def told_of(service: Service, rows: int) -> dict[str, Any]:
    """What /drift says of control once it knows of so many rows."""
    found: dict[str, Any] = {}

    def is_known() -> bool:
        status, answer = service.ask("/drift")
        assert status == 200, answer
        found.update(answer)
        arm = answer["variants"]["control"]
        return arm is not None and arm["rows"] == rows

    service.until(is_known)
    assert found["status"] == found["variants"]["control"]["verdict"]
    return dict(found["variants"]["control"])


def compared(service: Service, **window: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result.json of the command, of the same log."""
    words = [f"{key}={value}" for key, value in window.items()]
    code = main(["drift", f"{NAME}@champion", f"current={service.folder}", *words])
    return code, json.loads(Path("outputs/drift", NAME, "result.json").read_text())


def test_a_shift_of_what_is_asked_is_told_by_the_service_and_by_the_command(
    workplace: Path, service: Callable[..., Service]
) -> None:
    """Both kinds of requests are in the hour that /drift looks at: it has to find the shift in half of the rows."""
    table(4_000, seed=0).to_csv("credit.csv", index=False)
    assert main([f"name={NAME}", "data=csv", "data.path=credit.csv", "data.target=repaid", "model=linear",
                 "trainer.epochs=4", "progress=off"]) == 0  # fmt: skip
    (run,) = local_runs("outputs")
    assert main(["promote", run.fingerprint]) == 0
    often = ["log.flush_seconds=0.05", "log.roll_seconds=0.2", "drift.every_seconds=0.2", "follow.poll_seconds=60"]
    with service(*often, name=NAME) as started:
        send(started, table(2_000, seed=1))
        found = told_of(started, rows=2_000)
        assert (found["verdict"], found["drifted"], found["error"]) == ("stable", [], None)
        assert found["fingerprint"] == run.fingerprint
        assert metric(started, 'drift{variant="control",verdict="stable"}') == 1
        code, result = compared(started)
        assert (code, result["verdict"], result["current"]["rows"]) == (0, "stable", 2_000)

        changed = datetime.now(UTC)
        send(started, table(2_000, seed=2, shift=SHIFT))
        found = told_of(started, rows=4_000)
        assert found["verdict"] == "drifted" and found["drifted"][0] == "income"
        assert not {"age", "debt", "city"} & set(found["drifted"])
        (values,) = (each for each in found["results"] if each["feature"] == "income" and each["test"] == "ks")
        assert values["effect"] == pytest.approx(SHIFT / 2, abs=0.1)
        assert metric(started, 'drift{variant="control",verdict="drifted"}') == 1
        assert metric(started, 'drifted_columns{variant="control"}') == len(found["drifted"])
        assert metric(started, 'drift_rows{variant="control"}') == 4_000
        code, result = compared(started, since=f"{changed:%Y-%m-%dT%H:%M:%S.%f}")
        assert (code, result["verdict"], result["current"]["rows"]) == (5, "drifted", 2_000)
        assert result["drifted"][0] == "income"


def metric(service: Service, name: str) -> float:
    status, text = service.ask("/metrics")
    assert status == 200
    lines = dict(line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#"))
    return float(lines[f"mlops_hydra_serving_{name}"])
