"""What of a prediction reaches the journal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.arms import Choice
from mlops_hydra.serving.body import read_body
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.logged import RequestLog
from mlops_hydra.serving.model import ServedModel, load_model
from tests.serving.conftest import CREDIT_ROW

VALUES = list(CREDIT_ROW.values())


@pytest.fixture(scope="module")
def model(trained_bundle: Callable[[int], Path]) -> ServedModel:
    return load_model(trained_bundle(0), "3", max_batch_rows=8)


@pytest.fixture
def logged(serve_config: Callable[..., ServeConfig], model: ServedModel) -> Callable[..., list[dict[str, Any]]]:
    """`logged(bodies, *overrides)`: the lines of these requests."""

    def log(bodies: list[dict[str, Any]], *overrides: str) -> list[dict[str, Any]]:
        config = serve_config("log.sample=1", *overrides)
        folder = ServiceFolder.for_config(config)
        made = RequestLog(config.log, folder, clock=lambda: 12.5)
        for number, content in enumerate(bodies):
            body = read_body(json.dumps(content, indent=1).encode())
            rows = model.reader.row(body.features) if "features" in content else model.reader.rows(body.rows)  # type: ignore[arg-type]
            made(Choice("treatment", "user_id", model), f"r{number}", body, rows, model.predict(rows)[0])
        made.journal.close()
        return [
            json.loads(line)
            for path in sorted(folder.journal.glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    return log


def test_a_line_says_when_who_what_and_by_whom(logged: Any, model: ServedModel) -> None:
    about, line = logged([{"rows": [CREDIT_ROW, CREDIT_ROW], "user_id": 7}])
    assert about["version"] == "3"
    assert about["features"] == [list(column) for column in model.reader.columns]
    assert (line["t"], line["id"], line["user"], line["arm"], line["by"]) == (
        12_500_000,
        "r0",
        "7",
        "treatment",
        "user_id",
    )
    assert line["rows"] == [CREDIT_ROW, CREDIT_ROW]
    outcome = model.predict([tuple(VALUES)])[0]
    assert line["p"] == outcome.predictions * 2
    assert line["c"] == pytest.approx(outcome.confidences * 2)


def test_features_are_a_list_of_one_row(logged: Any) -> None:
    assert logged([{"features": VALUES}])[1]["rows"] == [VALUES]


def test_left_out_columns_do_not_reach_the_disk_and_hashed_ones_not_as_they_were(logged: Any) -> None:
    bodies = [{"rows": [CREDIT_ROW], "user_id": "ann"}, {"features": VALUES, "user_id": "ann"}]
    about, *lines = logged(bodies, "log.leave_out=[income]", "log.hash=[city,user_id]")
    assert about["features"] == [["age", "numeric"], ["employed", "boolean"], ["city", "hashed"], ["since", "date"]]
    first, second = lines
    assert first["rows"] == second["rows"]
    assert first["user"] == second["user"]
    assert not {"Wien", "ann", "52000.0"} & set(json.dumps(lines).replace('"', " ").split())


def test_a_hash_is_the_same_for_one_spelling_of_a_value_and_missing_stays_missing(logged: Any) -> None:
    rows = [CREDIT_ROW | {"city": city} for city in (5, 5.0, "5", None)]
    line = logged([{"rows": rows}], "log.hash=[city]")[1]
    five, again, text, missing = (row[3] for row in line["rows"])
    assert five == again == text
    assert missing is None


def test_a_user_is_in_the_sample_or_not_whatever_he_asks(logged: Any) -> None:
    bodies = [{"features": VALUES, "user_id": f"u{i % 50}"} for i in range(200)]
    users = [line["user"] for line in logged(bodies, "log.sample=0.4") if "user" in line]
    assert {users.count(user) for user in users} == {4}
    assert 8 <= len(set(users)) <= 32


def test_without_users_requests_are_sampled(logged: Any) -> None:
    lines = logged([{"features": VALUES}] * 200, "log.sample=0.5")
    assert 60 <= len(lines) - 1 <= 140


def test_user_ids_can_be_left_out(logged: Any) -> None:
    assert logged([{"features": VALUES, "user_id": "ann"}], "log.leave_out=[user_id]")[1]["user"] is None
