"""Studies from end to end, in this process: what they find, what they cost again, what they leave behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

import mlops_hydra
from mlops_hydra import compose, run, sweep
from mlops_hydra.cli import main
from mlops_hydra.errors import ConfigError
from mlops_hydra.sweeps.sweep import StudyResult
from mlops_hydra.tracking.recorded import local_runs
from mlops_hydra.tracking.store import open_client

BASE = ("model=linear", "trainer.epochs=3", "progress=plain")
SPACE = ("optimizer.lr=tag(log, interval(1e-4, 1e-1))",)


def study(*overrides: str, space: tuple[str, ...] = SPACE, **options: Any) -> StudyResult:
    return sweep(compose([*BASE, *overrides]), overrides=space, console=Console(quiet=True), **options)


def trials(result: StudyResult) -> pd.DataFrame:
    return pd.read_parquet(result.folder / "trials.parquet")


def test_a_study_leaves_what_a_person_needs(workplace: Path):
    result = study("sweeps=tpe", "sweeps.n_trials=5")
    assert result.counts == {"complete": 5} and result.verdict == "passed" and result.exit_code == 0
    table = trials(result)
    assert list(table["number"]) == list(range(5)) and set(table["status"]) == {"new"}
    best = table.loc[table["value"].idxmin()]
    assert result.best["value"] == best["value"] and result.best["trial"] == best["number"]
    results = yaml.safe_load((result.folder / "optimization_results.yaml").read_text())
    assert results["best_params"] == {"optimizer.lr": best["params.optimizer.lr"]}
    assert {path.name for path in (result.folder / "plots").iterdir()} >= {"history.png", "slice.png"}
    said = json.loads((result.folder / "result.json").read_text())
    assert said["verdict"] == "passed" and said["fingerprint"] == best["fingerprint"]


def test_the_best_is_a_config_that_runs_by_its_command_and_costs_nothing(workplace: Path, capsys):
    result = study("sweeps=random", "sweeps.n_trials=3")
    assert main(["--config-dir", str(result.folder), "experiment=best"]) == 0
    printed = capsys.readouterr().out
    assert "Reused run" in printed and result.best["trial"] is not None
    assert result.result is not None and result.result.fingerprint in printed


@pytest.mark.slow
def test_a_trial_gives_what_its_overrides_give_alone(workplace: Path, tmp_path: Path):
    row = trials(study("sweeps=random", "sweeps.n_trials=2")).iloc[0]
    alone = compose([*BASE, f"optimizer.lr={row['params.optimizer.lr']}"])
    assert alone.fingerprint == row["fingerprint"]
    elsewhere = alone.model_copy(update={"output_dir": str(tmp_path / "elsewhere"), "tracking": alone.tracking})
    assert run(elsewhere, console=Console(quiet=True)).objective_value == row["value"]


@pytest.mark.slow
def test_a_point_that_was_trained_before_costs_nothing_in_any_direction(workplace: Path):
    lone = run(compose([*BASE, "optimizer.lr=0.01"]), console=Console(quiet=True))
    first = study("sweeps=grid", "sweeps.n_trials=9", space=("optimizer.lr=0.01,0.02",))
    assert dict(zip(trials(first)["params.optimizer.lr"], trials(first)["status"], strict=True)) == {
        0.01: "reused",
        0.02: "new",
    }
    again = study("sweeps=grid", "sweeps.study_name=other", space=("optimizer.lr=0.01,0.02",))
    assert set(trials(again)["status"]) == {"reused"}
    assert sorted(trials(again)["value"]) == sorted(trials(first)["value"])
    assert lone.objective_value in set(trials(first)["value"])
    of_trial = run(compose([*BASE, "optimizer.lr=0.02"]), console=Console(quiet=True))
    assert "nothing is left to train" in of_trial.reason or of_trial.status == "reused"


def test_a_run_made_of_a_trial_is_bit_for_bit_the_run_that_was_never_one(workplace: Path, tmp_path: Path):
    result = study("sweeps=random", "sweeps.n_trials=1")
    assert result.result is not None
    lr = result.best["overrides"][-1]
    other = compose([*BASE, lr, f"output_dir={tmp_path / 'other'}", f"tracking.uri=sqlite:///{tmp_path}/other/m.db"])
    alone = run(other, console=Console(quiet=True))
    same = {name: value for name, value in alone.metrics.items() if not name.startswith("latency")}
    assert {name: result.result.metrics[name] for name in same} == same
    assert (result.result.best_epoch, result.result.num_epochs) == (alone.best_epoch, alone.num_epochs)
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (result.result.folder, alone.folder)]
    assert weights[0] == weights[1]


def test_the_same_command_continues_to_the_total_and_then_does_nothing(workplace: Path, tmp_path: Path):
    tpe = ("sweeps=tpe", "sweeps.sampler.n_startup_trials=3")
    half, whole = study(*tpe, "sweeps.n_trials=4"), study(*tpe, "sweeps.n_trials=8")
    assert half.name == whole.name and whole.counts == {"complete": 8}
    assert study(*tpe, "sweeps.n_trials=8").counts == {"complete": 8}
    once = study(*tpe, "sweeps.n_trials=8", f"output_dir={tmp_path / 'once'}")
    columns = ["number", "state", "value", "params.optimizer.lr", "fingerprint"]
    assert trials(once)[columns].equals(trials(whole)[columns])
    assert len(set(trials(whole)["params.optimizer.lr"])) == 8


def test_a_changed_space_is_refused_with_what_changed_and_the_ways_on(workplace: Path):
    study("sweeps=random", "sweeps.n_trials=2", "sweeps.study_name=mine")
    with pytest.raises(ConfigError) as caught:
        study("sweeps=random", "sweeps.n_trials=4", "sweeps.study_name=mine", space=("optimizer.lr=0.1,0.2",))
    text = str(caught.value)
    assert "optimizer.lr" in text and "sweeps.study_name=OTHER" in text and "study mine is of something else" in text
    assert study("sweeps=random", "sweeps.n_trials=3", "sweeps.study_name=mine").counts == {"complete": 3}


def test_a_new_study_says_which_one_it_is_not(workplace: Path, capsys):
    main(["-m", *BASE, "sweeps=random", "sweeps.n_trials=1", *SPACE])
    main(["-m", *BASE, "sweeps=random", "sweeps.n_trials=1", "optimizer.lr=tag(log, interval(1e-4, 1.0))"])
    assert "which differs in space.optimizer.lr.attributes.high: 0.1 -> 1.0" in capsys.readouterr().out


PRUNED = ("sweeps=hyperband", "sweeps.n_trials=12", "trainer.epochs=9", "model=mlp", "data=wine")


def test_pruned_trials_are_pruned_everywhere_and_a_pruned_point_alone_goes_on_to_its_end(
    workplace: Path, tmp_path: Path
):
    result = study(*PRUNED, "sweeps.study_name=pruned")  # of itself it has another name, and brackets, for other code
    table = trials(result)
    pruned = table[table["state"] == "pruned"]
    assert len(pruned) >= 3 and set(table["state"]) == {"complete", "pruned"}
    row = pruned.iloc[0]
    (before,) = local_runs("outputs", row["fingerprint"])
    assert before.state == "pruned" and len(json.loads((before.folder / "history.json").read_text())["epochs"]) < 9
    overrides = [*BASE, *PRUNED[2:], f"optimizer.lr={row['params.optimizer.lr']}"]
    alone = run(compose(overrides), console=Console(quiet=True))
    assert alone.status == "resumed" and f"from epoch {int(row['num_reports'])}" in alone.reason
    shutil.rmtree(tmp_path / "outputs" / "runs")
    fresh = run(compose([*overrides, "reuse=never"]), console=Console(quiet=True))
    same = [{n: v for n, v in one.metrics.items() if not n.startswith("latency")} for one in (alone, fresh)]
    assert same[0] == same[1] and alone.num_epochs == fresh.num_epochs


@pytest.mark.slow
def test_a_point_that_was_pruned_is_pruned_at_once_in_another_study(workplace: Path):
    first = trials(study(*PRUNED))
    again = trials(study(*PRUNED, "sweeps.study_name=again"))
    assert list(again["state"]) == list(first["state"]) and set(again["status"]) == {"reused"}
    assert list(again["last_report"]) == list(first["last_report"])


def test_without_a_pruner_nothing_is_reported(workplace: Path):
    assert set(trials(study("sweeps=random", "sweeps.n_trials=2"))["num_reports"]) == {0}


def test_mlflow_has_a_run_for_the_study_above_those_of_its_trials(workplace: Path):
    result = study(*PRUNED)
    client = open_client(f"sqlite:///{workplace}/outputs/mlflow.db")
    runs = client.search_runs(["1"], max_results=100)
    (parent,) = [one for one in runs if one.info.run_name == result.name]
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 12 == len(runs) - 1
    counts = result.counts
    assert sum(one.info.status == "KILLED" for one in children) == counts["pruned"]
    assert all((one.info.status == "KILLED") == (one.data.tags["trial.state"] == "pruned") for one in children)
    assert parent.info.status == "FINISHED" and parent.data.params["space.optimizer.lr"].startswith("FloatDistribution")
    assert parent.data.metrics["trials/pruned"] == counts["pruned"]
    assert parent.data.metrics["best/log_loss"] == result.best["value"]
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names >= {"optimization_results.yaml", "trials.parquet", "plots", "experiment", "result.json"}
    assert all(one.data.params["optimizer.lr"] for one in children)


@pytest.mark.slow
def test_finished_trials_keep_no_checkpoints_unless_asked(workplace: Path):
    often = ("trainer.checkpoint.every_epochs=1", "sweeps=random", "sweeps.n_trials=2")
    study(*often)
    assert not list(Path("outputs/runs").rglob("checkpoints/*.pt"))
    study(*often, "sweeps.keep_checkpoints=true", "seed=1")
    assert list(Path("outputs/runs").rglob("checkpoints/*.pt"))


DIVERGING = ("optimizer=sgd", "data=diabetes", "model=linear", "trainer.epochs=3")


def test_trials_that_diverge_fail_with_their_error_and_the_others_go_on(workplace: Path):
    space = ("optimizer.lr=0.01,0.02,1e30",)
    result = study(*DIVERGING, "sweeps=grid", "sweeps.max_failure_rate=0.4", space=space)
    assert result.counts == {"complete": 2, "failed": 1} and result.problem == "" and result.result is not None
    (failed,) = trials(result)["error"].dropna()
    assert "NonFiniteError" in failed and "epoch" in failed
    status = [one.state for one in local_runs("outputs")]
    assert status.count("failed") == 1


def test_too_many_failures_end_the_study_with_exit_code_1_and_leave_what_there_is(workplace: Path, capsys):
    code = main(["-m", *DIVERGING, "sweeps=grid", "sweeps.max_failure_rate=0.2", "optimizer.lr=0.01,1e30,1e31,1e32"])
    printed = capsys.readouterr().out
    assert code == 1 and "1 of 4 trials failed: sweeps.max_failure_rate=0.2 allows 0" in printed
    assert "NonFiniteError" in printed
    assert list(Path("outputs/studies").glob("*/trials.parquet"))


def test_a_study_without_a_complete_trial_says_so(workplace: Path):
    result = study(*DIVERGING, "sweeps=grid", "sweeps.max_failure_rate=1", space=("optimizer.lr=1e30,1e31",))
    assert result.exit_code == 1 and result.problem == "no trial came to its end" and result.best == {}


def test_several_objectives_give_a_front_and_no_winner(workplace: Path):
    options = ("sweeps=nsga2", "sweeps.n_trials=6", "model=mlp", "objective.others=[num_parameters,roc_auc]")
    result = study(*options, space=("model.hidden=[4],[8],[64]",))
    solutions = yaml.safe_load((result.folder / "optimization_results.yaml").read_text())["solutions"]
    assert solutions and all(len(one["values"]) == 3 for one in solutions)
    assert result.result is None and result.exit_code == 0
    table = trials(result)
    sizes = table.groupby("params.model.hidden")["num_parameters"].unique().map(len)
    assert (sizes == 1).all() and table["num_parameters"].nunique() > 1 and table["roc_auc"].between(0.5, 1).all()


def test_the_best_are_confirmed_over_new_seeds_before_one_wins(workplace: Path):
    confirm = ("sweeps.confirm.top_k=2", "sweeps.confirm.seeds=3")
    result = study("sweeps=random", "sweeps.n_trials=3", *confirm)
    assert len(result.confirmation) == 2 and all(len(one.values) == 3 for one in result.confirmation)
    means = [one.mean for one in result.confirmation]
    assert means == sorted(means) and result.best["trial"] == result.confirmation[0].number
    fingerprints = {one.fingerprint for one in local_runs("outputs")}
    assert len(fingerprints) == 3 + 2 * 3
    config = compose([*BASE, "seed=1", *result.confirmation[0].overrides])
    assert run(config, console=Console(quiet=True)).objective_value == result.confirmation[0].values[0]
    assert study("sweeps=random", "sweeps.n_trials=3", *confirm).confirmation == result.confirmation


def test_the_gates_of_the_winner_are_the_exit_code(workplace: Path):
    strict = ("gates=strict", "gates.accuracy.threshold=0.9999")
    assert main(["-m", *BASE, *strict, "sweeps=random", "sweeps.n_trials=2", *SPACE]) == 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sweeps=tpe,random", *SPACE], "is chosen once"),
        (["sweeps=tpe"], "a study needs something to try"),
        (["sweeps=tpe", "optimizer.lrr=1,2"], "Did you mean optimizer.lr?"),
        (["sweeps=tpe", "model=linear,mpl"], "Did you mean mlp?"),
        (["sweeps=tpe", "sweeps.n_trials=0", *SPACE], "sweeps.n_trials"),
        (["sweeps=tpe", "sweeps.sampler.n_startup=3", *SPACE], "n_startup"),
        (["sweeps=grid", *SPACE], "a grid needs values one can list"),
        (["sweeps=tpe", "sweeps.storage=mongodb://x", *SPACE], "sweeps.storage"),
        (["sweeps=hyperband", "objective.others=[num_parameters]", *SPACE], "works with one objective"),
        (["sweeps=tpe", "sweeps.study_name=../x", *SPACE], "names a folder"),
        (["sweeps=tpe", "data.target=nothing", *SPACE], "nothing"),
        (["sweeps=tpe", "model=mlp", "model.dropout=0.1,7"], "model"),
        (["sweeps=tpe", "sweeps.confirm.top_k=1", *SPACE], "at least 2"),
        (["sweeps=tpe", "hydra.sweeper.n_trials=3", *SPACE], "sweeps.n_trials"),
    ],
)
def test_a_wrong_request_stops_before_the_first_trial_and_writes_nothing(
    overrides: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *BASE, *overrides]) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_without_m_the_command_adds_it(workplace: Path):
    assert main([*BASE, "sweeps=random", "sweeps.n_trials=1", "gates=none", *SPACE]) == 0
    assert list(Path("outputs/studies").glob("*/result.json"))


def test_a_study_can_be_a_file(workplace: Path):
    option = "sweeps: {n_trials: 2, params: {optimizer: {lr: 'tag(log, interval(1e-3, 1e-1))'}, model: [linear, mlp]}}"
    folder = workplace / "mine" / "experiment"
    folder.mkdir(parents=True)
    head = "# @package _global_\ndefaults: [{override /sweeps: random}, _self_]\n"
    (folder / "search.yaml").write_text(head + option)
    assert main(["--config-dir", "mine", "experiment=search", "trainer.epochs=2", "progress=off"]) == 0
    (table,) = Path("outputs/studies").glob("*/trials.parquet")
    assert {"params.optimizer.lr", "params.model"} <= set(pd.read_parquet(table).columns)


def test_check_says_what_a_study_would_do_and_writes_nothing(workplace: Path, capsys):
    request = [*BASE, "sweeps=random", "sweeps.n_trials=2", *SPACE]
    assert main(["check", *request]) == 0
    assert "run 2 of 2 trials; 0 are there" in capsys.readouterr().out
    assert not Path("outputs/studies").exists()
    main(["-m", *request])
    capsys.readouterr()
    assert main(["check", *request, "sweeps.n_trials=5"]) == 0
    assert "run 3 of 5 trials; 2 are there" in capsys.readouterr().out


def test_an_interrupted_study_goes_on_with_the_trial_that_was_under_way(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlops_hydra.sweeps import workplace as trials_of

    real, calls = trials_of.Workplace._train, []

    def stopped(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(trials_of.Workplace, "_train", stopped)
    with pytest.raises(KeyboardInterrupt):
        study("sweeps=tpe", "sweeps.n_trials=4")
    monkeypatch.undo()
    result = study("sweeps=tpe", "sweeps.n_trials=4")
    assert result.counts == {"complete": 4} and list(trials(result)["number"]) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_server_that_is_down_costs_no_trial_and_sync_delivers_all(workplace: Path, dead_address: str, capsys):
    down = (f"tracking.uri={dead_address}", "tracking.timeout_seconds=2")
    result = study("sweeps=random", "sweeps.n_trials=3", *down)
    assert result.counts == {"complete": 3}
    assert main(["sync", "tracking.uri=sqlite:///outputs/mlflow.db"]) == 0
    runs = open_client(f"sqlite:///{workplace}/outputs/mlflow.db").search_runs(["1"], max_results=50)
    (parent,) = [one for one in runs if one.info.run_name == result.name]
    assert sum(one.data.tags.get("mlflow.parentRunId") == parent.info.run_id for one in runs) == 3


@pytest.fixture
def dead_address() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_public_names_are_there():
    assert {"sweep", "StudyResult", "report"} <= set(mlops_hydra.__all__)
    assert mlops_hydra.report(0.5, step=1) is None  # nobody listens
    assert TrialState.COMPLETE
