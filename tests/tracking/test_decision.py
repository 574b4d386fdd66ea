"""The whole decision table, with its reasons, from real folders."""

import dataclasses
import itertools
import json
import time
from pathlib import Path

import pytest

from mlops_hydra.tracking.decision import Elsewhere, decide, with_folders
from mlops_hydra.tracking.folders import TRIAL
from mlops_hydra.tracking.lease import LEASE, Lease
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.recorded import RecordedRun, State

RUN_ID = "1" * 32
NOTHING = ("new", "New run: nothing finished is recorded for {fingerprint}")
NOT_HERE = "New run: MLflow has run {label} of the same, {state}, but its folder is not here"
TABLE = {  # (lineage, state, where): what reuse=auto decides and why, then reuse=config where it differs
    ("same", "finished", "here"): [("reuse", "Reused run {label} (finished 2 h ago); reuse=never trains again")],
    ("same", "finished", "MLflow"): [("reuse", "Reused run {label} (finished 2 h ago); reuse=never trains again")],
    ("same", "running", "here"): [("busy", "Run {label} is being trained by {owner}, begun 0 s ago")],
    ("same", "running", "MLflow"): [("new", NOT_HERE)],
    ("same", "failed", "here"): [
        ("resume", "Resumed run {label} (failed 2 h ago) from the start: it has no checkpoint")
    ],
    ("same", "failed", "MLflow"): [("new", NOT_HERE)],
    ("same", "killed", "here"): [
        ("resume", "Resumed run {label} (killed 2 h ago) from the start: it has no checkpoint")
    ],
    ("same", "killed", "MLflow"): [("new", NOT_HERE)],
    **{
        ("other", "finished", where): [
            ("new", "New run: the data changed since run {label} (finished 2 h ago); reuse=config takes that one"),
            (
                "reuse",
                "Reused run {label} (finished 2 h ago); reuse=config takes it although the data changed since",
            ),
        ]
        for where in ("here", "MLflow")
    },
    **{
        ("other", state, where): [NOTHING]
        for state, where in itertools.product(("running", "failed", "killed"), ("here", "MLflow"))
    },
}
CASES = [(reuse, *case) for reuse in ("auto", "config", "never") for case in TABLE]


@pytest.fixture
def other(lineage: Lineage) -> Lineage:
    return dataclasses.replace(lineage, data="d" * 64)


def in_mlflow(config, lineage: Lineage, state: State, *, name: str = "tests", seconds: float = 7300) -> RecordedRun:
    then = time.time() - seconds
    return RecordedRun(config.fingerprint, lineage, name, state, then, then, run_id=RUN_ID)


def test_the_table_is_complete():
    states = ("finished", "running", "failed", "killed")
    assert set(TABLE) == set(itertools.product(("same", "other"), states, ("here", "MLflow")))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_is_decided_and_why(make_config, make_folder, lineage, other, case):
    reuse, which, state, where = case
    config, of = make_config(reuse=reuse), lineage if which == "same" else other
    lease, elsewhere, label = None, Elsewhere(), RUN_ID
    if where == "here":
        folder = make_folder(config, state, of=of, seconds=7300)
        lease, label = Lease.take(folder) if state == "running" else None, folder.name
    else:
        elsewhere = Elsewhere((in_mlflow(config, of, state),))
    decision = with_folders(config, lineage, elsewhere)
    action, reason = TABLE[which, state, where][-1 if reuse == "config" else 0]
    if reuse == "never":
        action, reason = "new", "New run: reuse=never"
    owner = decision.run.owner if decision.run else None
    assert decision.reason == reason.format(label=label, state=state, owner=owner, fingerprint=config.fingerprint)
    assert decision.action == action
    assert (decision.run is None) == (action == "new")
    if lease:
        lease.release()


def test_a_finished_run_wins_over_any_other_of_the_same_lineage(make_config, make_folder, lineage):
    config = make_config()
    for state in ("failed", "finished", "killed"):
        make_folder(config, state)
    decision = with_folders(config, lineage, Elsewhere())
    assert decision.action == "reuse"
    assert decision.run.label == f"{lineage.digest}-2"


def test_of_several_finished_runs_the_newest_is_taken_and_one_here_before_one_elsewhere(
    make_config, make_folder, lineage
):
    config = make_config()
    folders = [make_folder(config, "finished", seconds=seconds) for seconds in (50, 30, 40)]
    newer = Elsewhere((in_mlflow(config, lineage, "finished", seconds=1),))
    assert with_folders(config, lineage, newer).run.folder == folders[1]


def test_a_run_that_is_trained_keeps_others_from_resuming_an_older_one(make_config, make_folder, lineage):
    config = make_config()
    make_folder(config, "killed")
    lease = Lease.take(make_folder(config, "running"))
    assert with_folders(config, lineage, Elsewhere()).action == "busy"
    lease.release()
    assert with_folders(config, lineage, Elsewhere()).action == "resume"


def test_a_resumed_run_says_from_which_checkpoint(make_config, make_folder, lineage):
    config = make_config()
    folder = make_folder(config, "killed")
    (folder / "checkpoints").mkdir()
    manifest = {"format": 1, "owner": lineage.digest, "epoch": 7, "step": 42, "files": {}, "environment": {}}
    (folder / "checkpoints" / "000042.json").write_text(json.dumps(manifest))
    assert with_folders(config, lineage, Elsewhere()).reason.endswith("from epoch 7, step 42")


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"code": "e" * 64}, "the code changed"), ({"code": "e", "data": "e"}, "the data and the code changed")],
)
def test_what_changed_is_named(make_config, make_folder, lineage, changed, words):
    config = make_config()
    make_folder(config, "finished", of=dataclasses.replace(lineage, **changed))
    assert words in with_folders(config, lineage, Elsewhere()).reason


def test_a_run_of_another_experiment_name_is_not_taken(make_config, make_folder, lineage):
    make_folder(make_config(name="others"), "finished")
    config = make_config()
    assert with_folders(config, lineage, Elsewhere((in_mlflow(config, lineage, "finished", name="x"),))).action == "new"


def test_a_script_of_the_users_is_neither_resumed_nor_waited_for(make_config, lineage, dead_server):
    from mlops_hydra.tracking.run import tracked_experiment

    config = make_config(tracking=dead_server)
    with tracked_experiment(config, lineage):
        assert with_folders(config, lineage, Elsewhere()).action == "new"
    assert with_folders(config, lineage, Elsewhere()).action == "new"


def test_a_run_that_mlflow_has_too_is_counted_once_as_the_one_here(make_config, make_folder, lineage):
    config = make_config()
    folder = make_folder(config, "killed")
    (folder / "delivery.json").write_text(json.dumps({"uri": "x", "run_id": RUN_ID, "offset": 0}))
    decision = with_folders(config, lineage, Elsewhere((in_mlflow(config, lineage, "finished", seconds=1),)))
    assert decision.action == "resume"


def test_where_mlflow_cannot_be_reached_the_folders_decide_and_the_reason_says_so(
    make_config, make_folder, lineage, dead_server
):
    config = make_config(tracking=dead_server)
    assert decide(config, lineage).action == "new"
    make_folder(config, "finished")
    decision = decide(config, lineage)
    assert decision.action == "reuse"
    assert decision.reason.startswith(f"Reused run {lineage.digest} (finished 0 s ago); reuse=never trains again (MLf")
    assert "MLflow at http://127.0.0.1:9 cannot be asked" in decision.reason
    assert decision.reason.endswith(f"{Path(config.output_dir) / 'runs'} decided)")


@pytest.mark.parametrize(
    "content", [b"", b"no database at all", b"SQLite format 3\0 torn"], ids=["empty", "text", "torn"]
)
def test_a_store_that_is_damaged_stops_nothing(make_config, make_folder, lineage, tmp_path, content):
    config = make_config()
    make_folder(config, "finished")
    store = tmp_path / "outputs" / "mlflow.db"
    store.write_bytes(content)
    assert decide(config, lineage).action == "reuse"
    assert store.read_bytes() == content


def test_deciding_creates_nothing(make_config, lineage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert decide(make_config(), lineage).action == "new"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_the_folder_but_no_record_yet_is_seen(make_config, lineage, tmp_path):
    config = make_config()
    folder = tmp_path / "outputs" / "runs" / config.fingerprint / lineage.digest
    folder.mkdir(parents=True)
    lease = Lease.take(folder, "tests")
    assert with_folders(config, lineage, Elsewhere()).action == "busy"
    assert with_folders(make_config(name="others"), lineage, Elsewhere()).action == "new"
    assert with_folders(config, dataclasses.replace(lineage, code="e"), Elsewhere()).action == "new"
    lease.release()
    assert not (folder / LEASE).exists()
    assert with_folders(config, lineage, Elsewhere()).action == "new"


def a_trial(folder: Path, state: str) -> Path:
    (folder / TRIAL).write_text(json.dumps({"state": state}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("state", "said"), [("trained", "nothing is left to train"), ("pruned", "from the start")])
def test_a_run_goes_on_where_a_trial_left_it_and_a_trial_takes_it(make_config, make_folder, lineage, state, said):
    config = make_config()
    folder = a_trial(make_folder(config, state="killed"), state)
    decision = decide(config, lineage)
    assert (decision.action, decision.run.folder) == ("resume", folder) and said in decision.reason
    for_trial = with_folders(config, lineage, Elsewhere(), for_trial=True)
    assert (for_trial.action, for_trial.run.state) == ("reuse", state)
    assert with_folders(make_config(reuse="never"), lineage, Elsewhere(), for_trial=True).action == "new"


def test_a_finished_run_is_better_than_a_trial_and_a_trained_one_than_a_pruned_one(make_config, make_folder, lineage):
    config = make_config()
    a_trial(make_folder(config, state="killed"), "pruned")
    a_trial(make_folder(config, state="killed"), "trained")
    assert with_folders(config, lineage, Elsewhere(), for_trial=True).run.state == "trained"
    assert decide(config, lineage).run.state == "trained"
    make_folder(config, state="finished")
    assert with_folders(config, lineage, Elsewhere(), for_trial=True).run.state == "finished"
    assert decide(config, lineage).action == "reuse"


def test_a_trial_of_other_data_is_not_taken(make_config, make_folder, lineage, other):
    config = make_config()
    a_trial(make_folder(config, state="killed"), "trained")
    assert with_folders(config, other, Elsewhere(), for_trial=True).action == "new"
