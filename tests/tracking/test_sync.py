"""What was missed is made good later, in the store that it was meant for."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.delivery import DELIVERY, is_waiting
from mlops_hydra.tracking.lease import Lease
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.recorded import local_runs
from mlops_hydra.tracking.run import tracked_experiment
from mlops_hydra.tracking.spool import SPOOL, ending
from mlops_hydra.tracking.store import open_client
from mlops_hydra.tracking.sync import Delivered, Store, reap_dead, sync

pytestmark = pytest.mark.usefixtures("soon")


@pytest.fixture(autouse=True)
def _outside_of_any_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no patch is recorded."""
    monkeypatch.chdir(tmp_path)


def synced(tmp_path: Path, uri: str, *, given: bool = False) -> list[Delivered]:
    return list(sync(tmp_path / "outputs", Store(uri, given, 30)))


def runs_in(uri: str) -> list[str]:
    client = open_client(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments)]


def missed(config, lineage: Lineage) -> Path:
    """A run that ended while its server did not work."""
    with tracked_experiment(config, lineage) as run:
        run.log_metrics({"loss": 0.5}, step=1)
    assert is_waiting(run.folder)
    return run.folder


def test_what_a_server_missed_arrives_there_later_and_once(make_config, lineage, moody, local_store, tmp_path: Path):
    moody.mood = "500"
    folder = missed(make_config(tracking={"uri": moody.uri, "timeout_seconds": 30.0}), lineage)
    (still,) = synced(tmp_path, local_store)
    assert still.problem == f"{moody.uri} did not take all of it"
    moody.mood = "well"
    (done,) = synced(tmp_path, local_store)
    assert (done.run.folder, done.problem, done.num_records) == (folder, "", 5)
    assert synced(tmp_path, local_store) == [], "nothing is left"
    (run_id,) = runs_in(moody.uri)
    recorded = open_client(moody.uri).get_run(run_id)
    assert recorded.info.status == "FINISHED" and recorded.data.metrics == {"loss": 0.5}
    assert local_runs(tmp_path / "outputs")[0].run_id == run_id
    assert runs_in(local_store) == [], "it was meant for the server"


def test_a_store_that_a_person_names_gets_what_was_meant_for_another(
    make_config, lineage, dead_server, local_store, tmp_path: Path
):
    folder = missed(make_config(tracking=dead_server), lineage)
    (still,) = synced(tmp_path, local_store)
    assert "127.0.0.1:9" in still.problem and runs_in(local_store) == []
    (done,) = synced(tmp_path, local_store, given=True)
    assert done.problem == "" and len(runs_in(local_store)) == 1
    assert json.loads((folder / DELIVERY).read_text())["uri"] == local_store
    assert synced(tmp_path, dead_server["uri"]) == [], "it has arrived where a person wanted it"


def test_credentials_are_in_no_file_and_come_with_the_request(make_config, lineage, moody, local_store, tmp_path: Path):
    uri = moody.uri.replace("//", "//me:pass@word-9f3@")
    moody.mood = "500"
    overrides = (f"tracking.uri={uri}",)
    folder = missed(make_config(overrides, tracking={"uri": uri, "timeout_seconds": 30.0}), lineage)
    shown = moody.uri.replace("//", "//***@")
    assert json.loads((folder / DELIVERY).read_text())["uri"] == shown
    moody.mood = "well"
    (other,) = synced(tmp_path, local_store)
    assert other.problem == f"meant for {shown}: say tracking.uri=... with its credentials"
    (done,) = synced(tmp_path, uri)
    assert done.problem == "" and len(runs_in(moody.uri)) == 1
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert [path for path in files if b"word-9f3" in path.read_bytes()] == []
    assert b"word-9f3" not in (tmp_path / "moody.db").read_bytes()


KILLED = """
import json, os, signal, sys
from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.run import tracked_experiment

config, result = ExperimentConfig.model_validate_json(sys.argv[1]), json.loads(sys.argv[2])
with tracked_experiment(config, Lineage("a" * 64, "b" * 64, "c" * 64)) as run:
    run.log_metrics({"loss": 0.5}, step=1)
    if result:
        write_json_atomic(run.folder / "result.json", result)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("status", ["KILLED", "FINISHED"])
def test_a_killed_process_leaves_a_run_that_is_ended_for_it(
    make_config, local_store, tmp_path: Path, status, whole_result
):
    """A real process that is killed; with its result on the disk the run is finished."""
    result = whole_result if status == "FINISHED" else {}
    command = [sys.executable, "-c", KILLED, make_config().model_dump_json(), json.dumps(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (before,) = local_runs(tmp_path / "outputs")
    assert not before.is_ended
    (delivered,) = synced(tmp_path, local_store)
    assert delivered.problem == ""
    assert ending(before.folder / SPOOL)["status"] == status
    (run_id,) = runs_in(local_store)
    recorded = open_client(local_store).get_run(run_id)
    assert recorded.info.status == status and recorded.data.metrics == {"loss": 0.5}
    artifacts = {file.path for file in open_client(local_store).list_artifacts(run_id)}
    assert ("result.json" in artifacts) == (status == "FINISHED")
    assert abs(recorded.info.end_time / 1000 - (before.folder / SPOOL).stat().st_mtime) < 60


def test_a_run_that_is_trained_is_left_alone(make_config, make_folder, local_store, tmp_path: Path):
    folder = make_folder(make_config(), "running")
    lease = Lease.take(folder)
    assert synced(tmp_path, local_store) == []
    assert ending(folder / SPOOL) is None
    lease.release()
    assert len(synced(tmp_path, local_store)) == 1
    assert ending(folder / SPOOL)["status"] == "KILLED"


def test_a_run_that_another_process_took_since_it_was_listed_is_not_reaped(make_config, make_folder, tmp_path: Path):
    folder = make_folder(make_config(), "dead")
    listed = local_runs(tmp_path / "outputs")
    lease = Lease.take(folder)
    assert reap_dead(tmp_path / "outputs", listed) == []
    lease.release()
    assert [run.folder for run in reap_dead(tmp_path / "outputs", listed)] == [folder]
    assert reap_dead(tmp_path / "outputs", listed) == [], "once"


def test_the_end_of_a_reaped_run_is_its_last_sign_of_life(make_config, make_folder, tmp_path: Path):
    folder = make_folder(make_config(), "dead")
    os.utime(folder / SPOOL, (1_700_000_000, 1_700_000_000))
    reap_dead(tmp_path / "outputs", local_runs(tmp_path / "outputs"))
    assert ending(folder / SPOOL)["time"] == 1_700_000_000_000


def test_one_damaged_folder_keeps_no_other_from_being_delivered(make_config, make_folder, local_store, tmp_path: Path):
    config = make_config()
    torn, foreign, whole = (make_folder(config, "finished") for _ in range(3))
    (torn / SPOOL).write_bytes((torn / SPOOL).read_bytes()[:20])
    (foreign / SPOOL).write_text('{"kind": "start"}\n')
    (foreign.parent / "a file").touch()
    (delivered,) = synced(tmp_path, local_store)
    assert delivered.run.folder == whole and delivered.problem == ""


def test_what_mlflow_refuses_is_a_problem_once(make_config, make_folder, local_store, tmp_path: Path):
    folder = make_folder(make_config(), "killed")
    with (folder / SPOOL).open("a") as file:
        file.write('{"kind": "params", "values": {"seed": "another"}}\n')
    assert [bool(delivered.problem) for delivered in synced(tmp_path, local_store)] == [True]
    assert synced(tmp_path, local_store) == []


def test_many_runs_are_delivered_each_to_its_own(make_config, make_folder, lineage, local_store, tmp_path: Path):
    lineages = [dataclasses.replace(lineage, code=letter * 64) for letter in "defgh"]
    folders = [make_folder(make_config(name=f"n{of.code[0]}"), "killed", of=of) for of in lineages]
    assert sorted(done.run.folder for done in synced(tmp_path, local_store)) == sorted(folders)
    client = open_client(local_store)
    for of, run in zip(lineages, sorted(local_runs(tmp_path / "outputs"), key=lambda run: run.name), strict=True):
        assert client.get_run(run.run_id).data.tags["lineage"] == of.digest


def test_an_output_dir_without_runs_is_left_as_it_is(tmp_path: Path, local_store):
    assert synced(tmp_path, local_store) == []
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["mlflow.db"]


def test_a_folder_that_cannot_be_written_is_an_error_that_says_where(make_config, make_folder, tmp_path, local_store):
    folder = make_folder(make_config(), "dead")
    listed = local_runs(tmp_path / "outputs")
    (tmp_path / "outputs" / "runs" / ".lock").mkdir()
    with pytest.raises(TrackingError, match=r"output_dir|\.lock"):
        reap_dead(tmp_path / "outputs", listed)
    assert ending(folder / SPOOL) is None
