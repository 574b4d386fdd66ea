"""One run from Python: what it returns, what it records, and how it ends when something goes wrong."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from mlops_hydra import Observer, Training, compose, run
from mlops_hydra.config.fingerprint import flatten, identity
from mlops_hydra.errors import ConfigError, DataError, NonFiniteError, UsageError
from mlops_hydra.evaluation.metrics import score

QUICK = ["model=linear", "trainer=debug", "progress=off"]


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd() / 'outputs' / 'mlflow.db'}")


def recorded_runs() -> list[MlflowRun]:
    experiments = [experiment.experiment_id for experiment in client().search_experiments()]
    return list(client().search_runs(experiments))


class Interrupting(Observer):
    """Ctrl-C at the end of the first epoch."""

    def on_epoch_end(self, training: Training) -> None:
        raise KeyboardInterrupt


class Logging(Observer):
    """A number and a file of the user's own."""

    def on_epoch_end(self, training: Training) -> None:
        training.log_metric("weight_norm", 1.5)
        Path("notes.txt").write_text(f"epoch {training.epoch}")
        training.log_artifact("notes.txt")


class Waiting(Observer):
    """Tells that training has begun, and takes its time."""

    def on_epoch_end(self, training: Training) -> None:
        Path("begun").touch()
        time.sleep(0.05)


def nan_if_constant(targets: Any, predictions: Any) -> float:
    return float("nan") if len(set(predictions)) == 1 else float((targets == predictions).mean())


def broken(targets: Any, predictions: Any) -> float:
    raise ZeroDivisionError("nothing to divide by")


class Raising(Observer):
    """A bug of the user's."""

    def on_epoch_end(self, training: Training) -> None:
        raise KeyError("a bug of mine")


def half(targets: Any, predictions: Any) -> float:
    return float((targets == predictions).mean()) / 2


@pytest.fixture
def own_code(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This module under a name that a `_target_` can use."""
    (workplace / "own_code.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(workplace)
    sys.modules.pop("own_code", None)


def test_a_run_in_python_is_what_the_command_does(workplace: Path) -> None:
    result = run(compose(QUICK))
    assert result.exit_code == 0
    assert result.verdict == "passed"
    assert json.loads((result.folder / "result.json").read_text()) == json.loads(json.dumps(result.as_json()))


def test_mlflow_holds_the_whole_story(workplace: Path) -> None:
    config = compose([*QUICK, "+tags.team=blue", "name=story"])
    result = run(config)
    (recorded,) = recorded_runs()
    assert recorded.info.run_id == result.run_id
    assert recorded.info.run_name == config.fingerprint
    assert recorded.info.status == "FINISHED"
    assert set(recorded.data.params) == set(flatten(identity(config))), "identity fields and nothing else are params"
    tags = recorded.data.tags
    assert tags["mlflow.note.content"] == "model=linear trainer=debug progress=off +tags.team=blue name=story"
    assert (tags["model"], tags["data"], tags["team"]) == ("linear", "breast_cancer", "blue")
    assert (tags["verdict"], tags["objective"]) == ("passed", "minimize val/log_loss")
    assert tags["lineage.data"] == result.lineage.data
    history = client().get_metric_history(recorded.info.run_id, "val/log_loss")
    assert [point.step for point in history] == [1, 2]
    for name, value in result.metrics.items():
        if not name.startswith("train/"):
            assert recorded.data.metrics[name] == pytest.approx(value, abs=1e-9) or np.isnan(value)
    artifacts = {item.path for item in client().list_artifacts(recorded.info.run_id)}
    assert {"config.yaml", "weights.safetensors", "predictions.parquet", "verdicts.json", "plots"} <= artifacts
    plots = {Path(item.path).name for item in client().list_artifacts(recorded.info.run_id, "plots")}
    assert plots == {"learning_curves.png", "confusion_matrix.png", "roc.png", "calibration.png"}


def test_predictions_on_disk_give_the_recorded_metrics_again(workplace: Path) -> None:
    result = run(compose(QUICK))
    frame = pd.read_parquet(result.folder / "predictions.parquet")
    test = frame[frame["split"] == "test"]
    targets = (test["target"] == "malignant").to_numpy().astype(np.int64)
    again = score("binary", targets, test[["p_benign", "p_malignant"]].to_numpy())
    assert {f"test/{name}": value for name, value in again.items()} == pytest.approx(
        {name: result.metrics[name] for name in result.metrics if name.startswith("test/")}
    )
    assert frame["row"].is_unique


def test_a_loss_that_is_not_finite_ends_the_run_failed_with_what_was_measured(workplace: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"epoch \d+, step \d+"):
        run(compose(["model=mlp", "optimizer=sgd", "optimizer.lr=1e25", "progress=off"]))
    (recorded,) = recorded_runs()
    assert recorded.info.status == "FAILED"
    assert "NonFiniteError" in recorded.data.tags["error"]


@pytest.mark.usefixtures("own_code")
def test_ctrl_c_ends_the_run_killed_and_keeps_what_was_measured(workplace: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(compose([*QUICK, "+callbacks.stop._target_=own_code.Interrupting"]))
    (recorded,) = recorded_runs()
    assert recorded.info.status == "KILLED"


@pytest.mark.usefixtures("own_code")
def test_sigterm_ends_a_real_process_killed_with_143(workplace: Path) -> None:
    """A real process that is terminated while it trains, about 6 s."""
    command = [sys.executable, "-m", "mlops_hydra", *QUICK, "+callbacks.wait._target_=own_code.Waiting"]
    command += ["trainer.epochs=100000"]
    process = subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not (workplace / "begun").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "stopping at the end of this step, with a checkpoint" in output
    assert list(workplace.glob("outputs/runs/*/*/checkpoints/*.json"))
    (recorded,) = recorded_runs()
    assert recorded.info.status == "KILLED"


@pytest.mark.usefixtures("own_code")
def test_a_users_observers_and_metrics_are_recorded(workplace: Path) -> None:
    own = ["+callbacks.mine._target_=own_code.Logging", "+metrics.half._target_=own_code.half"]
    result = run(compose([*QUICK, *own]))
    assert result.metrics["test/half"] == pytest.approx(result.metrics["test/accuracy"] / 2)
    assert result.metrics["baseline/half"] == pytest.approx(result.metrics["baseline/accuracy"] / 2)
    (recorded,) = recorded_runs()
    assert recorded.data.metrics["weight_norm"] == 1.5
    assert [item.path for item in client().list_artifacts(recorded.info.run_id) if item.path == "notes.txt"]


@pytest.mark.usefixtures("own_code")
def test_a_users_metric_can_be_the_objective_and_a_gate(workplace: Path) -> None:
    own = ["+metrics.half._target_=own_code.half", "objective.metric=half", "objective.direction=maximize"]
    gate = "+gates.mine={metric: half, threshold: 0.6, direction: higher}"
    result = run(compose([*QUICK, *own, gate]))
    assert result.objective.metric == "half"
    assert result.objective_value == result.metrics["val/half"]
    assert {verdict.name: verdict.verdict for verdict in result.gates}["mine"] == "failed"
    assert result.exit_code == 3


@pytest.mark.usefixtures("own_code")
def test_a_metric_that_fails_is_told_before_training(workplace: Path) -> None:
    with pytest.raises(UsageError, match=r"metrics\.mine: ZeroDivisionError: nothing to divide by"):
        run(compose([*QUICK, "+metrics.mine._target_=own_code.broken"]))
    (recorded,) = recorded_runs()
    assert recorded.info.status == "FAILED"
    assert not recorded.data.metrics


@pytest.mark.usefixtures("own_code")
def test_a_failing_observer_is_named_in_its_own_error(workplace: Path) -> None:
    with pytest.raises(KeyError) as caught:
        run(compose([*QUICK, "+callbacks.mine._target_=own_code.Raising"]))
    assert "in on_epoch_end of the observer Raising, epoch 1" in caught.value.__notes__[0]


def test_a_gate_on_a_metric_of_another_task_is_told_before_training(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"gates\.mine\.metric: not measured for binary"):
        run(compose([*QUICK, "+gates.mine={metric: rmse, threshold: 1}"]))


def test_ctrl_c_while_waiting_for_the_store_loses_no_result(workplace: Path) -> None:
    """A server that accepts and never answers, and a real process that is interrupted while it waits, about 9 s."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"tracking.uri=http://127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "mlops_hydra", *QUICK, "tracking=server", uri, "tracking.timeout_seconds=3"]
        process = subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            spools = list(workplace.glob("outputs/runs/*/*/spool.jsonl"))
            if spools and '"FINISHED"' in spools[0].read_text():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    (path,) = workplace.glob("outputs/runs/*/result.json")
    assert json.loads(path.read_text())["verdict"] == "passed"


@pytest.mark.usefixtures("own_code")
def test_a_gate_that_cannot_decide_exits_4(workplace: Path) -> None:
    own = "+metrics.odd._target_=own_code.nan_if_constant"
    gate = "+gates.mine={metric: odd, better_than: baseline, direction: higher}"
    result = run(compose([*QUICK, own, gate]))
    assert result.verdict == "undecided"
    assert result.exit_code == 4
    assert json.loads((result.folder / "result.json").read_text())["metrics"]["baseline/odd"] is None


def test_every_task_trains_judges_and_records(workplace: Path) -> None:
    for data, metric in (("wine", "test/accuracy"), ("diabetes", "test/rmse")):
        result = run(compose([f"data={data}", "trainer.epochs=20", "trainer.batch_size=16", "progress=off"]))
        assert result.verdict == "passed", result.gates
        assert metric in result.metrics


def test_a_config_made_by_hand_is_held_to_the_same_rules(workplace: Path) -> None:
    config = compose(QUICK)
    broken = config.model_copy(update={"trainer": config.trainer.model_copy(update={"epochs": 0})})
    with pytest.raises(ConfigError, match=r"trainer\.epochs"):
        run(broken)
    assert not list(workplace.glob("outputs/runs/*"))


def test_the_lineage_follows_data_and_code_apart_from_the_config(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=80), "label": rng.integers(0, 2, 80)})
    frame.to_csv("a.csv", index=False)
    frame.to_csv("b.csv", index=False)
    base = [*QUICK, "data=csv", "data.target=label", "gates=none"]
    one, same = (run(compose([*base, f"data.path={name}.csv"])) for name in "ab")
    assert one.lineage == same.lineage, "the path is not part of it, the content is"
    frame.loc[0, "x"] += 1e-9
    frame.to_csv("b.csv", index=False)
    other = run(compose([*base, "data.path=b.csv"]))
    assert other.fingerprint == one.fingerprint
    assert other.lineage.data != one.lineage.data
    assert other.lineage.code == one.lineage.code


def test_a_tracking_server_that_is_down_does_not_stop_training(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens on port 9; delivery gives up after its attempts, 2-4 s."""
    uri = ["tracking=server", "tracking.uri=http://127.0.0.1:9", "tracking.timeout_seconds=3"]
    with caplog.at_level(logging.INFO, logger="mlops_hydra"):
        result = run(compose([*QUICK, *uri]))
    assert result.exit_code == 0
    assert result.run_id is None
    assert "Nothing is lost" in caplog.text
    assert "metrics" in (result.folder / "spool.jsonl").read_text()


def test_an_output_dir_that_cannot_be_written_stops_the_run_before_training(workplace: Path) -> None:
    (workplace / "file").touch()
    with pytest.raises(Exception, match="output_dir"):
        run(compose([*QUICK, "output_dir=file"]))


def test_data_that_changes_while_it_is_read_is_noticed(workplace: Path) -> None:
    from mlops_hydra.data.sources import open_source

    pd.DataFrame({"x": range(60), "label": [0, 1] * 30}).to_csv("a.csv", index=False)
    source = open_source(compose(["data=csv", "data.path=a.csv", "data.target=label"]).data)
    source.digest()
    with Path("a.csv").open("a") as file:
        file.write("7,1\n")
    with pytest.raises(DataError, match="changed while it was being read"):
        source.load()


def test_global_state_is_as_it_was_afterwards(workplace: Path) -> None:
    import torch

    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("MLFLOW_TRACKING_URI"),
    )
    handlers = list(logging.getLogger("mlops_hydra").handlers)
    run(compose([*QUICK, "trainer.num_threads=1"]))
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), os.environ.get("MLFLOW_TRACKING_URI")
    assert after == before
    assert logging.getLogger("mlops_hydra").handlers == handlers
