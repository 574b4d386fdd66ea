"""A run whose folder is gone, brought back from MLflow."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.claim import claimed
from mlops_hydra.tracking.delivery import Delivery, is_waiting
from mlops_hydra.tracking.fetch import fetch_run
from mlops_hydra.tracking.lookup import runs_in_mlflow
from mlops_hydra.tracking.recorded import RecordedRun, local_runs
from mlops_hydra.tracking.spool import SPOOL, Spool, ending
from mlops_hydra.tracking.store import open_client


@pytest.fixture
def lost(make_config, finish_run, local_store: str) -> RecordedRun:
    """A finished run that only MLflow has."""
    config = make_config()
    shutil.rmtree(finish_run(config).parent)
    (run,) = runs_in_mlflow(local_store, config.fingerprint, timeout_seconds=30)
    return run


def fetch(run: RecordedRun, uri: str, tmp_path: Path) -> RecordedRun:
    return fetch_run(run, uri, tmp_path / "outputs", timeout_seconds=30)


def test_a_fetched_run_is_what_it_was(lost: RecordedRun, local_store: str, tmp_path: Path, lineage):
    run = fetch(lost, local_store, tmp_path)
    assert run.folder == tmp_path / "outputs" / "runs" / lost.fingerprint / lineage.digest
    assert (run.state, run.lineage, run.run_id, run.name) == ("finished", lineage, lost.run_id, "tests")
    assert run.result["run_id"] == lost.run_id and run.result["metrics"]["test/accuracy"] == 0.9
    assert (run.began, run.time, run.family) == (pytest.approx(lost.began), pytest.approx(lost.time), run.family)
    assert run.is_ended and not is_waiting(run.folder)
    assert [path.name for path in run.folder.parent.iterdir()] == [lineage.digest], "no scratch is left"


def test_a_fetched_run_is_reused_and_then_local(lost, local_store, tmp_path, lineage, make_config):
    with claimed(make_config(), lineage) as claim:
        assert claim.decision.run.folder is None and claim.folder is None
    run = fetch(lost, local_store, tmp_path)
    with claimed(make_config(), lineage) as claim:
        assert claim.decision.action == "reuse" and claim.decision.run.folder == run.folder
        assert claim.reaped == ()


def test_what_is_recorded_after_fetching_goes_to_the_same_mlflow_run(lost, local_store: str, tmp_path: Path):
    run = fetch(lost, local_store, tmp_path)
    spool = Spool(run.folder / SPOOL)
    spool.append("tags", values={"verdict": "failed"})
    spool.close()
    delivery = Delivery(run.folder, uri=local_store, output_dir=tmp_path, timeout_seconds=30)
    delivery.start()
    delivery.finish()
    assert delivery.run_id == lost.run_id
    recorded = open_client(local_store).get_run(lost.run_id)
    assert recorded.data.tags["verdict"] == "failed" and recorded.info.status == "FINISHED"
    assert ending(run.folder / SPOOL)["status"] == "FINISHED"


def test_a_run_that_is_fetched_twice_gets_two_folders_and_mixes_nothing(lost, local_store, tmp_path):
    first, second = (fetch(lost, local_store, tmp_path) for _ in range(2))
    assert second.folder.name == f"{first.folder.name}-2"


@pytest.mark.parametrize("damage", ["artifacts gone", "result gone", "result torn", "run gone"])
def test_what_cannot_be_fetched_whole_is_an_error_that_leaves_no_folder(
    lost, local_store: str, tmp_path: Path, damage: str
):
    (result,) = (tmp_path / "outputs" / "artifacts").rglob("result.json")
    if damage == "artifacts gone":
        shutil.rmtree(tmp_path / "outputs" / "artifacts")
    elif damage == "result gone":
        result.unlink()
    elif damage == "result torn":
        result.write_text(result.read_text()[:20])
    else:
        with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as database:
            database.execute("DELETE FROM tags")
            database.execute("DELETE FROM runs")
        database.close()
    with pytest.raises(
        TrackingError, match=rf"run {lost.run_id} is in MLflow .* cannot be fetched: .*reuse=never"
    ) as e:
        fetch(lost, local_store, tmp_path)
    assert "\n" not in str(e.value)
    assert local_runs(tmp_path / "outputs") == []
    assert list((tmp_path / "outputs" / "runs" / lost.fingerprint).iterdir()) == []


def test_a_server_that_is_down_is_named_without_its_credentials(lost, tmp_path: Path):
    with pytest.raises(TrackingError, match=r"http://\*\*\*@127\.0\.0\.1:9") as caught:
        fetch(lost, "http://me:secret@127.0.0.1:9", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_run_from_a_server_is_fetched(make_config, finish_run, moody, tmp_path: Path):
    config = make_config(tracking={"uri": moody.uri, "timeout_seconds": 30.0})
    folder = finish_run(config)
    assert json.loads((folder / "delivery.json").read_text())["uri"] == moody.uri
    before = json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder)
    (run,) = runs_in_mlflow(moody.uri, config.fingerprint, timeout_seconds=30)
    assert json.loads((fetch(run, moody.uri, tmp_path).folder / "result.json").read_text()) == before | {
        "run_id": run.run_id
    }
