"""One delivery for the trials of a study: nothing waits for it, and everything arrives."""

import time
from pathlib import Path

import pytest

from mlops_hydra.tracking.claim import claimed
from mlops_hydra.tracking.delivery import is_waiting
from mlops_hydra.tracking.git import GitState
from mlops_hydra.tracking.post import Post, Shared
from mlops_hydra.tracking.run import Run, tracked_experiment
from mlops_hydra.tracking.sender import PARENT_TAG
from mlops_hydra.tracking.spool import SPOOL, Spool, now_ms
from mlops_hydra.tracking.store import open_client
from mlops_hydra.tracking.sync import Store, sync

PARENT = "study x"


@pytest.fixture
def shared(local_store: str, tmp_path: Path) -> Shared:
    post = Post(local_store, tmp_path / "outputs", timeout_seconds=30)
    return Shared(post, PARENT, GitState(commit="c" * 40, branch="main", dirty=True, patch="secret"))


def trial(config, lineage, shared: Shared, *, status: str = "FINISHED") -> Run:
    with (
        claimed(config, lineage, for_trial=True) as claim,
        tracked_experiment(config, lineage, claim=claim, shared=shared) as run,
    ):
        for epoch in range(1, 4):
            run.log_metrics({"val/log_loss": 1 / epoch}, step=epoch)
        run.set_tags({"trial": epoch})
        run.status = status
    return run


def parent(folder: Path, shared: Shared) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spool, delivery = Spool(folder / SPOOL), shared.post.open(folder, at_once=True)
    spool.append(
        "start", id=PARENT, experiment="tests", run_name="x", time=now_ms(), tags={}, description="", script=False
    )
    spool.append("params", values={})
    delivery.start()
    spool.append("end", status="FINISHED", time=now_ms())
    spool.close()
    delivery.finish()


def test_all_runs_arrive_whole_below_the_run_of_their_study(make_config, lineage, shared: Shared, tmp_path: Path):
    parent(tmp_path / "outputs" / "studies" / "x", shared)
    runs = [trial(make_config(seed=seed), lineage, shared) for seed in range(5)]
    assert shared.post.finish() == 0
    client = open_client(shared.post.uri)
    (top,) = client.search_runs(["1"], f"tags.`mlops_hydra.spool` = '{PARENT}'")
    for run in runs:
        found = client.get_run(run.run_id)
        assert found.info.status == "FINISHED" and found.data.tags[PARENT_TAG] == top.info.run_id
        assert [point.value for point in client.get_metric_history(run.run_id, "val/log_loss")] == [1, 1 / 2, 1 / 3]
        assert found.data.params["seed"] and found.data.tags["trial"] == "3"
        assert not is_waiting(run.folder)


def test_a_trial_that_was_pruned_is_killed(make_config, lineage, shared: Shared):
    run = trial(make_config(), lineage, shared, status="KILLED")
    shared.post.finish()
    assert open_client(shared.post.uri).get_run(run.run_id).info.status == "KILLED"


def test_the_patch_and_the_environment_are_not_written_once_a_trial(make_config, lineage, shared: Shared):
    run = trial(make_config(), lineage, shared)
    shared.post.finish()
    assert {path.name for path in run.folder.iterdir()} == {"spool.jsonl", "delivery.json"}
    assert run.git["commit"] == "c" * 40


def test_a_server_that_is_down_holds_no_trial_up_and_is_told_once(make_config, lineage, dead_server, tmp_path, caplog):
    post = Post(dead_server["uri"], tmp_path / "outputs", timeout_seconds=1)
    shared = Shared(post, PARENT, GitState())
    began = time.monotonic()
    runs = [trial(make_config(seed=seed, tracking=dead_server), lineage, shared) for seed in range(20)]
    assert time.monotonic() - began < 10
    assert post.finish() == 20
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [text for text in told if "20 of the trials" in text and "sync" in text] and len(told) == 1
    assert all(is_waiting(run.folder) for run in runs)


def test_what_was_missed_is_delivered_by_sync_below_its_study(make_config, lineage, dead_server, local_store, tmp_path):
    shared = Shared(Post(dead_server["uri"], tmp_path / "outputs", timeout_seconds=1), PARENT, GitState())
    parent(tmp_path / "outputs" / "studies" / "x", shared)
    trial(make_config(tracking=dead_server), lineage, shared)
    shared.post.finish()
    outcomes = list(sync(tmp_path / "outputs", Store(local_store, True, 30)))
    assert len(outcomes) == 2 and not any(one.problem for one in outcomes)
    client = open_client(local_store)
    top, below = sorted(client.search_runs(["1"]), key=lambda one: PARENT_TAG in one.data.tags)
    assert below.data.tags[PARENT_TAG] == top.info.run_id


def test_a_long_trial_can_be_watched_while_it_runs(make_config, lineage, shared: Shared, monkeypatch):
    monkeypatch.setattr("mlops_hydra.tracking.post.SEND_SECONDS", 0.05)
    config = make_config()
    with (
        claimed(config, lineage, for_trial=True) as claim,
        tracked_experiment(config, lineage, claim=claim, shared=shared) as run,
    ):
        run.log_metrics({"val/log_loss": 0.5}, step=1)
        deadline = time.monotonic() + 20
        while run.run_id is None or "val/log_loss" not in open_client(shared.post.uri).get_run(run.run_id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert shared.post.finish() == 0


def test_a_refused_record_is_counted_and_the_rest_arrives(make_config, lineage, shared: Shared):
    config = make_config()
    with (
        claimed(config, lineage, for_trial=True) as claim,
        tracked_experiment(config, lineage, claim=claim, shared=shared) as run,
    ):
        run._spool.append("params", values={"seed": "another"})  # params cannot change
        run.log_metrics({"a": 1.0}, step=1)
    assert shared.post.finish() == 1
    assert open_client(shared.post.uri).get_run(run.run_id).data.metrics["a"] == 1.0
