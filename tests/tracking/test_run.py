import http.server
import json
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from mlops_hydra.errors import TrackingError, UsageError
from mlops_hydra.tracking.claim import claimed
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.recorded import read_run
from mlops_hydra.tracking.run import Run, tracked_experiment
from mlops_hydra.tracking.spool import SPOOL, read_spool
from mlops_hydra.tracking.store import open_client


def spooled(folder: Path, kind: str) -> list[dict]:
    return [record for record in read_spool(folder / SPOOL)[0] if record["kind"] == kind]


def test_a_run_is_recorded_whole(make_config, lineage: Lineage, local_store: str, tmp_path: Path):
    config = make_config(
        ("seed=0", "tracking.uri=http://me:secret@host"), (("model", "linear"), ("data", "wine")), tags={"team": "a"}
    )
    (tmp_path / "notes.txt").write_text("mine")
    with tracked_experiment(config, lineage) as run:
        run.log_metrics({"train/loss": 0.5, "val/accuracy": float("nan")}, step=1)
        run.log_metrics({"train/loss": 0.25}, step=2)
        run.set_tags({"verdict": "passed"})
        run.log_artifact(tmp_path / "notes.txt")
    client = open_client(local_store)
    recorded = client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED" and recorded.info.run_name == config.fingerprint
    assert client.get_experiment(recorded.info.experiment_id).name == "tests"
    assert [m.value for m in client.get_metric_history(run.run_id, "train/loss")] == [0.5, 0.25]
    assert recorded.data.params["optimizer.lr"] == "0.1" and recorded.data.params["data.split.column"] == "null"
    assert not {"tracking.uri", "output_dir", "trainer.device"} & set(recorded.data.params)
    expected = {"team": "a", "verdict": "passed", "model": "linear", "data": "wine", "trainer.device": "cpu"}
    expected |= {"fingerprint": config.fingerprint, "lineage": lineage.digest, "lineage.data": lineage.data}
    assert expected.items() <= recorded.data.tags.items()
    assert recorded.data.tags["mlflow.note.content"] == "seed=0 tracking.uri=http://***@host"
    assert "secret" not in (run.folder / SPOOL).read_text()
    artifacts = {file.path for file in client.list_artifacts(run.run_id)}
    assert {"notes.txt", "environment.json"} <= artifacts
    assert recorded.info.artifact_uri.startswith((tmp_path / "outputs" / "artifacts").as_uri())


def test_the_folder_is_named_by_fingerprint_and_lineage(make_config, lineage: Lineage, local_store: str, tmp_path):
    config = make_config()
    with tracked_experiment(config, lineage) as run:
        assert run.folder == tmp_path / "outputs" / "runs" / config.fingerprint / lineage.digest
    with tracked_experiment(config, lineage) as again:
        assert again.folder.name == f"{lineage.digest}-2"
    assert run.run_id != again.run_id


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fail() -> None:
    raise ValueError("a loss went astray")


@pytest.mark.parametrize(
    ("end", "raised", "status"),
    [
        (fail, ValueError, "FAILED"),
        (interrupt, KeyboardInterrupt, "KILLED"),
        (terminate, SystemExit, "KILLED"),
        (sys.exit, SystemExit, "KILLED"),
    ],
)
def test_however_a_run_ends_its_status_is_right(make_config, lineage, local_store: str, end, raised, status: str):
    with pytest.raises(raised) as caught, tracked_experiment(make_config(), lineage) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        end()
    recorded = open_client(local_store).get_run(run.run_id)
    assert recorded.info.status == status == spooled(run.folder, "end")[0]["status"]
    assert recorded.data.metrics == {"loss": 1.0}
    assert recorded.data.tags.get("error") == ("ValueError: a loss went astray" if end is fail else None)
    if end is terminate:
        assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_generator_that_is_closed_inside_kills_its_run(make_config, lineage, local_store: str):
    def training() -> Iterator[Path]:
        with tracked_experiment(make_config(), lineage) as run:
            yield run.folder

    steps = training()
    folder = next(steps)
    steps.close()
    assert spooled(folder, "end")[0]["status"] == "KILLED"


def test_a_handler_of_sigterm_that_is_already_there_is_left_alone(make_config, lineage, dead_server):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("own"))
    try:
        with tracked_experiment(make_config(tracking=dead_server), lineage):
            terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["own"]


def test_a_server_that_is_down_costs_one_warning_and_no_training(make_config, lineage, dead_server, caplog):
    started = time.monotonic()
    with tracked_experiment(make_config(tracking=dead_server), lineage) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    assert time.monotonic() - started < dead_server["timeout_seconds"] + 1
    assert run.run_id is None
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "127.0.0.1:9" in warning and str(run.folder / SPOOL) in warning
    assert spooled(run.folder, "metrics")[0]["values"] == {"loss": 1.0}
    assert spooled(run.folder, "end")[0]["status"] == "FINISHED"


@pytest.fixture
def failing_server() -> Iterator[str]:
    """The URI of a server that answers every request with 500."""

    class Failing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_answers_500_costs_one_warning_and_no_training(make_config, lineage, failing_server, caplog):
    config = make_config(tracking={"uri": failing_server, "timeout_seconds": 10.0})
    with tracked_experiment(config, lineage) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    assert run.run_id is None
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "500" in warning


def test_a_server_that_never_answers_is_waited_for_no_longer_than_the_timeout(make_config, lineage, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with tracked_experiment(make_config(tracking={"uri": uri, "timeout_seconds": 0.5}), lineage):
            pass
        assert time.monotonic() - started < 2
    assert "no answer within 0.5 s" in caplog.text


def test_an_output_dir_that_cannot_be_written_stops_before_anything_inside_runs(make_config, lineage, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TrackingError, match="output_dir"),
        tracked_experiment(make_config(output_dir=str(tmp_path / "file")), lineage),
    ):
        pytest.fail("ran")


def test_a_metric_that_is_no_number_is_a_fault_that_names_it(make_config, lineage, dead_server):
    with tracked_experiment(make_config(tracking=dead_server), lineage) as run:
        with pytest.raises(UsageError, match="metric b: must be a number, got 'high'"):
            run.log_metrics({"a": 1.0, "b": "high"})
        with pytest.raises(UsageError, match="no such file"):
            run.log_artifact("nowhere.txt")


def test_a_script_may_change_its_directory(make_config, lineage, local_store, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config(output_dir="outputs", tracking={"uri": "sqlite:///outputs/mlflow.db", "timeout_seconds": 30.0})
    (tmp_path / "elsewhere").mkdir()
    with tracked_experiment(config, lineage) as run:
        monkeypatch.chdir(tmp_path / "elsewhere")
        run.log_metrics({"loss": 1.0})
    assert open_client(local_store).get_run(run.run_id).info.status == "FINISHED"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_recording_metrics_costs_the_training_microseconds(make_config, lineage, dead_server):
    values = {"train/loss": 0.1, "val/loss": 0.2, "val/accuracy": 0.9, "val/f1": 0.8, "lr": 0.01}
    with tracked_experiment(make_config(tracking=dead_server), lineage) as run:
        costs = []
        for step in range(300):
            started = time.perf_counter_ns()
            run.log_metrics(values, step=step)
            costs.append(time.perf_counter_ns() - started)
    assert sorted(costs)[len(costs) // 2] < 200_000  # 15 us on an idle machine


SCRIPT = """
import multiprocessing
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.run import tracked_experiment

with tracked_experiment(ExperimentConfig.model_validate_json(CONFIG), Lineage("a" * 64, "b" * 64, "c" * 64)) as run:
    run.log_metrics({"loss": 1.0}, step=1)
assert run.run_id is not None
"""


def test_six_processes_that_start_together_on_an_empty_output_dir_all_succeed(make_config, tmp_path: Path):
    """Takes 6-12 s: a store is really made, by MLflow's own migrations, while five others wait for it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    config = make_config()
    context = get_context("forkserver")
    context.set_forkserver_preload(["mlflow.store.tracking.sqlalchemy_store"])
    arguments = (str(tmp_path / "script.py"), {"CONFIG": config.model_dump_json()})
    processes = [context.Process(target=runpy.run_path, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    client = open_client(config.tracking.uri)
    experiment = client.get_experiment_by_name("tests")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    assert {run.data.metrics["loss"] for run in runs} == {1.0}
    assert len(list((tmp_path / "outputs" / "runs" / config.fingerprint).iterdir())) == 6


def test_a_real_server_gets_everything(mlflow_server: str, make_config, lineage, tmp_path: Path, capfd):
    """Takes 5-15 s, which is how long `mlflow server` needs to start."""
    config = make_config(tracking={"uri": mlflow_server, "timeout_seconds": 30.0})
    with tracked_experiment(config, lineage) as run:
        for step in range(1500):
            run.log_metrics({"train/loss": 1 / (step + 1), "val/accuracy": float("nan")}, step=step)
        (run.folder / "result.json").write_text(json.dumps({"verdict": "passed"}))
        run.log_artifact(run.folder / "result.json")
    assert capfd.readouterr().out == ""
    client = open_client(mlflow_server)
    recorded = client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert len(client.get_metric_history(run.run_id, "train/loss")) == 1500
    assert recorded.data.tags["mlflow.runName"] == config.fingerprint
    assert {"result.json", "environment.json"} <= {file.path for file in client.list_artifacts(run.run_id)}
    assert not (tmp_path / "outputs" / "artifacts").exists()


def go_on(config, lineage: Lineage, *values: float, end: Callable[[], None] | None = None) -> Run:
    """Claim, and record a value for each step from 1 on; `end` may end it in the middle."""
    with claimed(config, lineage) as claim, tracked_experiment(config, lineage, claim=claim) as run:
        for step, value in enumerate(values, start=1):
            run.log_metrics({"loss": value}, step=step)
        if end is not None:
            end()
    return run


def test_a_run_that_goes_on_is_one_run_in_which_no_step_is_there_twice(make_config, lineage, local_store: str):
    config = make_config()
    with pytest.raises(ValueError, match="astray"):
        go_on(config, lineage, 0.5, 0.4, end=fail)
    run = go_on(config, lineage, 0.9, 0.4, 0.3)
    client = open_client(local_store)
    history = client.get_metric_history(run.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 0.5), (2, 0.4), (3, 0.3)]
    recorded = client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert len(client.search_runs([recorded.info.experiment_id])) == 1
    assert [record["kind"] for record in read_spool(run.folder / SPOOL)[0]].count("start") == 1
    assert len(spooled(run.folder, "params")) == 1 and len(spooled(run.folder, "resume")) == 1


def test_what_a_process_that_died_could_not_record_of_the_origin_is_recorded_by_the_next(
    make_config, lineage, local_store: str
):
    config = make_config()
    with pytest.raises(ValueError, match="astray"):
        go_on(config, lineage, end=fail)
    (folder,) = (Path(config.output_dir) / "runs" / config.fingerprint).iterdir()
    lines = (folder / SPOOL).read_bytes().splitlines(keepends=True)
    (folder / SPOOL).write_bytes(lines[0] + lines[1][:30])
    (folder / "delivery.json").unlink()
    run = go_on(config, lineage, 0.5)
    recorded = open_client(local_store).get_run(run.run_id)
    assert recorded.data.params["optimizer.lr"] == "0.1" and recorded.data.metrics == {"loss": 0.5}
    assert recorded.info.status == "FINISHED"


def test_a_run_that_goes_on_with_another_store_is_whole_there(make_config, lineage, dead_server, local_store: str):
    with pytest.raises(ValueError, match="astray"):
        go_on(make_config(tracking=dead_server), lineage, 0.5, end=fail)
    run = go_on(make_config(), lineage, 0.5, 0.4)
    history = open_client(local_store).get_metric_history(run.run_id, "loss")
    assert sorted(point.step for point in history) == [1, 2]
    assert run.store == local_store


def test_a_script_gets_a_run_of_its_own_and_says_so(make_config, lineage, dead_server):
    config = make_config(tracking=dead_server)
    with tracked_experiment(config, lineage) as script:
        pass
    run = go_on(config, lineage, 0.5)
    assert run.folder != script.folder
    assert [read_run(each.folder).is_script for each in (script, run)] == [True, False]
