from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    ENDPOINT_NOT_FOUND,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)

from mlops_hydra.tracking.sender import MAX_NAME_LENGTH, MAX_PARAM_LENGTH, Sender, _group, _is_refusal, _legal_name
from mlops_hydra.tracking.store import open_client

START = {"kind": "start", "id": "s1", "experiment": "e", "run_name": "r", "time": 1, "tags": {}, "description": ""}


def metrics(step: int, **values: float | str) -> dict[str, Any]:
    return {"kind": "metrics", "step": step, "time": 10 + step, "values": values}


@pytest.fixture
def client(local_store: str):
    return open_client(local_store)


@pytest.fixture
def sender(client, tmp_path: Path) -> Sender:
    return Sender(client, tmp_path, artifact_location=(tmp_path / "artifacts").as_uri())


def send(sender: Sender, *records: dict[str, Any]) -> str:
    pending = list(records)
    sender.send(pending)
    assert pending == []
    assert sender.run_id is not None
    return sender.run_id


def test_300_params_arrive_and_a_value_over_the_limit_is_cut_with_a_note(client, sender: Sender):
    params = {f"model.p{i}": "x" * (7000 if i == 0 else i) for i in range(300)}
    run = client.get_run(send(sender, START, {"kind": "params", "values": params}))
    assert len(run.data.params) == 300
    assert run.data.params["model.p299"] == "x" * 299
    assert len(run.data.params["model.p0"]) == MAX_PARAM_LENGTH
    assert run.data.params["model.p0"].endswith("(7000 characters)")
    assert sender.refused == []


def test_5000_metrics_arrive_with_their_steps_and_times(client, sender: Sender):
    run_id = send(sender, START, *(metrics(step, a=step, b=-step) for step in range(2500)))
    for key, sign in (("a", 1), ("b", -1)):
        history = client.get_metric_history(run_id, key)
        assert sorted((m.step, m.value, m.timestamp) for m in history) == [(s, sign * s, 10 + s) for s in range(2500)]


def test_a_record_with_more_metrics_than_one_call_takes_arrives_whole(client, sender: Sender):
    run_id = send(sender, START, metrics(0, **{f"m{i}": i for i in range(2100)}))
    assert len(client.get_run(run_id).data.metrics) == 2100


def test_nan_and_infinities_arrive(client, sender: Sender):
    run = client.get_run(send(sender, START, metrics(0, a="nan", b="inf", c="-inf")))
    assert str(run.data.metrics["a"]) == "nan"
    assert run.data.metrics["b"] > 1e300 and run.data.metrics["c"] < -1e300


def test_sending_records_twice_changes_nothing(client, sender: Sender, tmp_path: Path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "roc.png").write_bytes(b"png")
    records = [
        {"kind": "params", "values": {"seed": "1"}},
        metrics(1, a=0.5, b="nan"),
        metrics(2, a=0.5),
        {"kind": "tags", "values": {"verdict": "passed"}},
        {"kind": "artifact", "path": "plots/roc.png", "to": "plots"},
        {"kind": "end", "status": "FINISHED", "time": 99},
    ]
    run_id = send(sender, START, *records)

    def recorded() -> str:  # as text: NaN is equal to nothing
        return f"{client.get_run(run_id).to_dictionary()} {client.get_metric_history(run_id, 'a')}"

    once = recorded()
    assert send(sender, START, *records) == run_id
    assert recorded() == once
    assert [file.path for file in client.list_artifacts(run_id, "plots")] == ["plots/roc.png"]
    assert sender.refused == []


def test_what_mlflow_refuses_is_kept_as_a_sentence_and_the_rest_arrives(client, sender: Sender):
    changed = [{"kind": "params", "values": {"seed": value}} for value in "12"]
    gone = {"kind": "artifact", "path": "gone.txt", "to": ""}
    run = client.get_run(send(sender, START, *changed, gone, metrics(1, a=1.0)))
    assert run.data.params == {"seed": "1"} and run.data.metrics == {"a": 1.0}
    assert len(sender.refused) == 2
    assert "Changing param values is not allowed" in sender.refused[0] and "gone.txt" in sender.refused[1]


def test_a_folder_arrives_with_its_files(client, sender: Sender, tmp_path: Path):
    (tmp_path / "plots" / "deep").mkdir(parents=True)
    (tmp_path / "plots" / "deep" / "a.txt").write_text("a")
    run_id = send(sender, START, {"kind": "artifact", "path": "plots", "to": ""})
    assert [file.path for file in client.list_artifacts(run_id, "plots/deep")] == ["plots/deep/a.txt"]


def test_names_that_mlflow_refuses_arrive_in_a_legal_form(client, sender: Sender):
    values = {"val/precision@10": 1.0, "val/precision#10": 2.0, "val/größe": 3.0, "/a//../b": 4.0, "x" * 300: 5.0}
    run = client.get_run(send(sender, START, metrics(0, **values)))
    assert sorted(run.data.metrics.values()) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert run.data.metrics["val/größe"] == 3.0


@given(name=st.text())
def test_every_legal_name_is_one_that_mlflow_accepts(name: str):
    from mlflow.utils.validation import _validate_metric_name

    legal = _legal_name(name)
    _validate_metric_name(legal)
    assert 0 < len(legal) <= MAX_NAME_LENGTH


@given(sizes=st.lists(st.integers(0, 1500) | st.none(), min_size=1, max_size=20))
def test_groups_keep_the_order_and_hold_one_call_each(sizes: list[int | None]):
    records = [
        {"kind": "tags", "values": {}} if size is None else metrics(0, **{str(i): 0.0 for i in range(size)})
        for size in sizes
    ]
    rest, seen = list(records), []
    while rest:
        group = _group(rest)
        assert len(group) == 1 or {record["kind"] for record in group} <= {"metrics", "tags"}
        assert len(group) == 1 or sum(len(record["values"]) for record in group) <= 1000
        seen += group
        del rest[: len(group)]
    assert seen == records


def test_a_run_that_goes_on_is_running_again_and_ends_anew(client, sender: Sender):
    run_id = send(sender, START, {"kind": "end", "status": "KILLED", "time": 5})
    assert client.get_run(run_id).info.status == "KILLED"
    send(sender, {"kind": "resume", "time": 6})
    assert client.get_run(run_id).info.status == "RUNNING"
    send(sender, metrics(1, a=1.0), {"kind": "end", "status": "FINISHED", "time": 9})
    assert (client.get_run(run_id).info.status, client.get_run(run_id).info.end_time) == ("FINISHED", 9)


def test_a_tag_of_a_run_that_has_ended_can_change(client, sender: Sender):
    run_id = send(sender, START, {"kind": "end", "status": "FINISHED", "time": 5})
    send(sender, {"kind": "tags", "values": {"verdict": "failed"}})
    assert client.get_run(run_id).data.tags["verdict"] == "failed"
    assert client.get_run(run_id).info.status == "FINISHED"


def test_only_a_run_that_is_there_is_adopted(client, sender: Sender):
    run_id = send(sender, START)
    assert sender.adopt(run_id) and sender.run_id == run_id
    assert not sender.adopt("0" * 32) and sender.run_id is None
    assert not sender.adopt(None)
    client.delete_run(run_id)
    assert not sender.adopt(run_id)


def test_an_artifact_that_changed_replaces_the_one_before(client, sender: Sender, tmp_path: Path):
    artifact = {"kind": "artifact", "path": "result.json", "to": ""}
    for text in ("old", "new"):
        (tmp_path / "result.json").write_text(text)
        run_id = send(sender, START, artifact)
    assert Path(client.download_artifacts(run_id, "result.json")).read_text() == "new"


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        (INVALID_PARAMETER_VALUE, True),
        (RESOURCE_DOES_NOT_EXIST, True),
        (INTERNAL_ERROR, False),
        (REQUEST_LIMIT_EXCEEDED, False),
        (UNAUTHENTICATED, False),
        (PERMISSION_DENIED, False),
        (ENDPOINT_NOT_FOUND, False),
        (TEMPORARILY_UNAVAILABLE, False),
    ],
)
def test_only_what_no_second_attempt_can_change_is_a_refusal(code: int, refused: bool):
    assert _is_refusal(MlflowException("no", code)) == refused
