"""A result that is there already: judged again, and never believed where it was changed."""

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from mlops_hydra import compose, run
from mlops_hydra.cli import main
from mlops_hydra.errors import ConfigError, TrackingError
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.delivery import is_waiting

QUICK = ["model=linear", "trainer=debug", "progress=off"]  # what `trained` was asked for


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd() / 'outputs' / 'mlflow.db'}")


def recorded() -> Any:
    """The only run that MLflow has."""
    experiments = [experiment.experiment_id for experiment in client().search_experiments()]
    (only,) = client().search_runs(experiments)
    return only


def again(*overrides: str) -> Result:
    result = run(compose([*QUICK, *overrides]))
    assert result.status == "reused"
    return result


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_is_reused_whole(trained: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    result = again()
    assert result.reason.startswith(f"Reused run {trained.name} (finished ")
    assert result.folder == trained and result.run_id == before["run_id"] == recorded().info.run_id
    assert result.exit_code == 0
    after = json.loads((trained / "result.json").read_text())
    assert after == before | {"status": "reused", "reason": result.reason}
    assert json.loads((trained.parent / "result.json").read_text()) == after
    assert [path.name for path in trained.parent.iterdir() if path.is_dir()] == [trained.name]


def test_a_reused_run_leaves_weights_predictions_and_record_alone(trained: Path) -> None:
    before = state_of(trained)
    again()
    changed = {path for path, content in state_of(trained).items() if before.get(path) != content}
    assert changed == {str(trained / "result.json")}


def test_the_gates_of_now_judge_it_also_in_mlflow(trained: Path) -> None:
    gate = "+gates.high={metric: accuracy, threshold: 1.01, direction: higher}"
    result = again(gate)
    assert result.verdict == "failed" and result.exit_code == 3
    assert [(verdict.name, verdict.verdict) for verdict in result.gates if verdict.name == "high"] == [
        ("high", "failed")
    ]
    assert json.loads((trained / "result.json").read_text())["verdict"] == "failed"
    assert recorded().data.tags["verdict"] == "failed" and recorded().info.status == "FINISHED"
    downloaded = Path(client().download_artifacts(recorded().info.run_id, "verdicts.json")).read_text()
    assert "high" in downloaded == (trained / "verdicts.json").read_text()
    assert again().verdict == "passed"
    assert recorded().data.tags["verdict"] == "passed"
    assert not is_waiting(trained)


def test_a_gate_on_what_was_not_measured_is_told_and_changes_nothing(trained: Path) -> None:
    before = state_of(trained)
    with pytest.raises(ConfigError, match=r"gates\.mine\.metric: not measured for binary"):
        run(compose([*QUICK, "+gates.mine={metric: rmse, threshold: 1}"]))
    assert state_of(trained) == before


TAMPERED: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "a better prediction": lambda f: f.assign(p_benign=f["p_benign"].round(), p_malignant=f["p_malignant"].round()),
    "rows left out": lambda f: f[f["row"] % 10 != 0],
    "other targets": lambda f: f.assign(target=np.where(f["row"] % 10 == 0, f["prediction"], f["target"])),
    "no test split": lambda f: f[f["split"] == "val"],
    "no such class": lambda f: f.assign(target="strange"),
    "no probabilities": lambda f: f.assign(p_benign=f["p_benign"] * 7),
    "numbers missing": lambda f: f.assign(p_benign=np.nan),
    "a column less": lambda f: f.drop(columns="target"),
    "a class less": lambda f: f.drop(columns="p_benign"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_predictions_that_were_changed_are_refused(trained: Path, how: str) -> None:
    path = trained / "predictions.parquet"
    frame = pd.read_parquet(path)
    TAMPERED[how](frame).to_parquet(path, index=False)
    before = state_of(trained)
    with pytest.raises(TrackingError, match="reuse=never trains again") as caught:
        run(compose(QUICK))
    assert str(trained) in str(caught.value) and caught.value.exit_code == 1
    assert state_of(trained) == before


@pytest.mark.parametrize("damage", ["gone", "torn", "empty"])
def test_predictions_that_cannot_be_read_are_refused(trained: Path, damage: str) -> None:
    path = trained / "predictions.parquet"
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(content[: 100 if damage == "torn" else 0])
    with pytest.raises(TrackingError, match=r"predictions\.parquet cannot be read: .*reuse=never trains again"):
        run(compose(QUICK))


DAMAGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a metric that is no number": lambda data: data["metrics"].update({"test/accuracy": "high"}),
    "metrics that are none": lambda data: data.update(metrics=[1, 2]),
    "a gate of another version": lambda data: data["gates"][0].update(strange=1),
    "no task": lambda data: data.pop("task"),
    "an unknown task": lambda data: data.update(task="sorting"),
    "half a lineage": lambda data: data["lineage"].pop("code"),
    "no objective": lambda data: data.update(objective="log_loss"),
    "an objective that was not measured": lambda data: data["objective"].update(metric="speed"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_result_is_refused_with_what_to_do(trained: Path, damage: str) -> None:
    edit(trained / "result.json", DAMAGED[damage])
    with pytest.raises(TrackingError, match=r"result\.json is damaged, or of another version .*reuse=never"):
        run(compose(QUICK))


def test_a_recorded_metric_that_was_changed_is_refused(trained: Path) -> None:
    edit(trained / "result.json", lambda data: data["metrics"].update({"test/accuracy": 0.99999}))
    with pytest.raises(TrackingError, match=r"predictions give test/accuracy .*, recorded is 0\.99999"):
        run(compose(QUICK))


def test_a_torn_result_is_none_and_the_run_goes_on_from_its_checkpoint(trained: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    (trained / "result.json").write_bytes((trained / "result.json").read_bytes()[:50])
    result = run(compose(QUICK))
    assert (result.status, result.folder) == ("resumed", trained)
    for name, value in before["metrics"].items():
        assert "latency" in name or result.metrics[name] == value
    assert recorded().info.status == "FINISHED"


def test_a_run_whose_folder_was_deleted_comes_back_from_mlflow(trained: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    run_id = recorded().info.run_id
    shutil.rmtree(trained.parent)
    result = again("+gates.high={metric: accuracy, threshold: 1.01, direction: higher}")
    assert (result.run_id, result.folder, result.verdict) == (run_id, trained, "failed")
    assert result.metrics == {name: pytest.approx(value, nan_ok=True) for name, value in before["metrics"].items()}
    assert {"weights.safetensors", "predictions.parquet", "config.yaml"} <= {path.name for path in trained.iterdir()}
    assert recorded().data.tags["verdict"] == "failed"
    assert again().folder == trained


def test_reuse_never_trains_again_beside_it(trained: Path) -> None:
    result = run(compose([*QUICK, "reuse=never"]))
    assert (result.status, result.folder.name) == ("new", f"{trained.name}-2")
    before = json.loads((trained / "result.json").read_text())["metrics"]
    assert {name: value for name, value in result.metrics.items() if "latency" not in name} == pytest.approx(
        {name: value for name, value in before.items() if "latency" not in name}, abs=0
    )


def test_a_server_that_is_down_does_not_keep_a_result_from_being_reused(trained: Path) -> None:
    uri = ["tracking=server", "tracking.uri=http://127.0.0.1:9", "tracking.timeout_seconds=3"]
    result = again(*uri)
    assert "MLflow at http://127.0.0.1:9 cannot be asked" in result.reason
    assert result.store.startswith("sqlite:///"), "that is where the run is"


def test_the_name_of_an_experiment_is_where_it_looks(trained: Path) -> None:
    assert run(compose([*QUICK, "name=another"])).status == "new"


WAITING = """
import time
from pathlib import Path
from mlops_hydra import Observer

class Waiting(Observer):
    def on_epoch_end(self, training):
        Path("begun").touch()
        while not Path("go").exists():
            time.sleep(0.02)
"""
ASKED = [*QUICK, "+callbacks.wait._target_=waiting_code.Waiting"]


@pytest.fixture
def other(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the same as `ASKED` until there is a file `go`."""
    (workplace / "waiting_code.py").write_text(WAITING)
    monkeypatch.syspath_prepend(workplace)
    command = [sys.executable, "-m", "mlops_hydra", *ASKED]
    pipe, output = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, cwd=workplace, stdout=pipe, stderr=output, text=True) as process:
        deadline = time.monotonic() + 50
        while not Path("begun").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert Path("begun").exists()
        yield process
        Path("go").touch()


def finish(process: subprocess.Popen[str]) -> str:
    Path("go").touch()
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 0, output
    return output


def test_who_launches_what_another_process_trains_exits_7(other, capsys: pytest.CaptureFixture[str]) -> None:
    """Two real processes, about 6 s: the other one starts from nothing."""
    assert main(ASKED) == 7
    told = capsys.readouterr().err
    assert f"is being trained by process {other.pid} on" in told and "on_busy=wait" in told
    assert "Reused" not in finish(other)
    assert main(ASKED) == 0
    assert "Reused run" in capsys.readouterr().out


class OnWord(logging.Handler):
    """Does something at a message that holds `text`."""

    def __init__(self, text: str, act: Callable[[], object]) -> None:
        super().__init__()
        self.text, self.act = text, act

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.act()


@pytest.mark.slow
def test_who_waits_for_another_process_gets_its_result(other, capsys: pytest.CaptureFixture[str]) -> None:
    """Two real processes, about 7 s: the other one starts from nothing, and ends once this one waits for it."""
    handler = OnWord("waiting for it", Path("go").touch)
    logging.getLogger("mlops_hydra").addHandler(handler)
    try:
        assert main([*ASKED, "on_busy=wait"]) == 0
    finally:
        logging.getLogger("mlops_hydra").removeHandler(handler)
    told = capsys.readouterr()
    assert "waiting for it (on_busy=wait)" in told.err and "Reused run" in told.out
    finish(other)
    assert recorded().info.status == "FINISHED"
