"""The commands about runs of the past, as a person types them: runs, clean, sync, diff, verify."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlops_hydra.cli import main
from mlops_hydra.tracking.recorded import RecordedRun, local_runs
from mlops_hydra.tracking.spool import SPOOL, Spool
from mlops_hydra.tracking.store import open_client
from tests.sampled import some

QUICK = ("model=linear", "trainer=debug", "progress=off")
OWN_MODEL = """
from torch import nn
from tests.sampled import some


class Mine(nn.Linear):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
"""


@pytest.fixture
def table(workplace: Path) -> Path:
    """A CSV in the current directory."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=120), "city": rng.choice(["Oslo", "Lima"], 120)})
    frame["label"] = np.where(frame["x"] > 0, "yes", "no")
    frame.to_csv(workplace / "table.csv", index=False)
    return workplace


CSV = (*QUICK, "data=csv", "data.path=table.csv", "data.target=label", "gates=none")


def newest() -> RecordedRun:
    return local_runs("outputs")[-1]


def folder() -> Path:
    found = newest().folder
    assert found is not None
    return found


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything, on one line: tables wrap where they like."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def die(run_folder: Path) -> None:
    """What a process leaves that is killed before its result is written."""
    (run_folder / "result.json").unlink()
    records = [json.loads(line) for line in (run_folder / SPOOL).read_text().splitlines()]
    kept = [record for record in records if record["kind"] != "end" and record.get("path") != "result.json"]
    (run_folder / SPOOL).write_text("".join(f"{json.dumps(record)}\n" for record in kept))
    delivery = json.loads((run_folder / "delivery.json").read_text())
    delivery["offset"] = (run_folder / SPOOL).stat().st_size
    (run_folder / "delivery.json").write_text(json.dumps(delivery))


def test_runs_lists_what_was_run_with_age_overrides_objective_and_verdict(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK]) == 0
    assert main([*QUICK, "seed=1"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["fingerprint", "run", "age", "state", "objective", "verdict", "overrides"]
    pattern = (
        rf"{newest().fingerprint} +\w{{12}} +\d+ s +finished +log_loss 0\.\d{{4}} +passed +{' '.join(QUICK)} seed=1"
    )
    assert re.match(pattern, lines[1]), lines[1]
    assert len(lines) == 3


def test_runs_filters_and_speaks_json(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    assert main([*QUICK, "seed=1", "gates.beats_baseline.by=99.9%"]) == 3
    die(folder())

    def listed(*filters: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main(["runs", "format=json", *filters]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [run["state"] for run in listed()] == ["killed", "finished"]
    assert [run["verdict"] for run in listed("verdict=passed")] == ["passed"]
    assert [run["state"] for run in listed("state=killed")] == ["killed"]
    assert len(listed("overrides=seed=1")) == 1
    assert len(listed("limit=1")) == 1
    assert listed("days=0.0000001") == []
    last = (folder() / SPOOL).read_text().splitlines()[-1]
    assert json.loads(last)["status"] == "KILLED", "who meets a dead run reaps it"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["runs", "state=finnished"], "Did you mean finished or failed?"),
        (["runs", "limitt=3"], "Did you mean limit?"),
        (["runs", "limit=0"], "greater than or equal to 1"),
        (["runs", "something"], "it is `mlops-hydra runs [filters] [key=value ...]`, got 'something'"),
        (["verify"], "it is `mlops-hydra verify RUN"),
        (["diff", "abc"], "it is `mlops-hydra diff RUN RUN"),
        (
            ["verify", "1234567e8901"],
            "no such run, here or in MLflow; `mlops-hydra runs` lists them, got '1234567e8901'",
        ),
        (["runs", "-m"], "runs is no sweep"),
        (["runs", "--config-name", "config"], "has a config of its own"),
        (["check", "init_from=1234567e8901"], "no such run, here or in MLflow"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_told_and_writes_nothing(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert said in printed(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["runs", "clean", "sync"])
def test_where_nothing_was_run_there_is_nothing_to_do(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["runs", "clean", "sync", "diff", "verify"])
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_every_command_explains_itself(command: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *flags]) == 0
    out = capsys.readouterr().out
    assert "output_dir: outputs" in out
    assert (f"mlops-hydra {command}" in out) == (flags == ["--help"])


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mlops-hydra runs limi", "limit="),
        ("mlops-hydra verify 1234567e8901 toler", "tolerance="),
        ("mlops-hydra check trainer.ep", "trainer.epochs="),
        ("mlops-hydra model=l", "model=linear"),
    ],
)
def test_the_shell_completes_what_belongs_to_the_command(
    line: str, offered: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.strip() == offered


def test_clean_says_what_would_go_and_removes_it_when_it_is_told_to(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "trainer.checkpoint.every_epochs=1"]) == 0
    finished = folder()
    assert main([*QUICK, "seed=1", "trainer.checkpoint.every_epochs=1"]) == 0
    killed = folder()
    die(killed)
    assert main(["sync"]) == 0
    capsys.readouterr()
    assert main(["clean", "days=0"]) == 0
    said = printed(capsys)
    assert f"would remove outputs/{finished.relative_to('outputs')}/checkpoints: checkpoints of a finished run" in said
    assert "not gone on with" in said
    assert (finished / "checkpoints").exists()
    assert killed.exists(), "a dry run comes first"
    assert main(["clean", "apply=true"]) == 0
    assert killed.exists(), "it was killed a moment ago: it may be gone on with"
    assert not (finished / "checkpoints").exists()
    assert (finished / "result.json").exists()
    assert main(["clean", "days=0", "apply=true"]) == 0
    assert not killed.exists()
    assert main([*QUICK]) == 0
    assert json.loads((finished / "result.json").read_text())["status"] == "reused"


def test_clean_removes_what_a_process_left_that_died_before_its_record_began(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("outputs/runs/f00000000000/e00000000000").mkdir(parents=True)
    assert main(["clean", "apply=true", "days=0"]) == 0
    assert "holds no record of a run" in printed(capsys)
    assert not list(Path("outputs/runs/f00000000000").iterdir())


def test_a_script_that_ended_well_is_finished_and_has_nothing_to_verify(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlops_hydra import compose, tracked_experiment

    with tracked_experiment(compose([*QUICK])) as run:
        run.log_metrics({"loss": 1.0})
    assert main(["runs"]) == 0
    assert "finished" in printed(capsys)
    assert main(["verify", run.fingerprint]) == 2
    assert "names a run of a script, which has no result" in printed(capsys)
    assert main(["clean", "days=0", "apply=true"]) == 0
    assert run.folder.exists()


def test_clean_keeps_a_run_whose_record_was_not_delivered(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    killed = folder()
    die(killed)
    (killed / "delivery.json").unlink()
    assert main(["clean", "days=0", "apply=true"]) == 0
    assert "`mlops-hydra sync` first" in printed(capsys)
    assert killed.exists()


def test_sync_delivers_what_a_server_missed_and_says_so(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens on port 9; delivery gives up after its attempts, 2-4 s."""
    dead = ["tracking=server", "tracking.uri=http://127.0.0.1:9", "tracking.timeout_seconds=2"]
    assert main([*QUICK, *dead]) == 0
    assert newest().run_id is None
    capsys.readouterr()
    assert main(["sync", "tracking.timeout_seconds=2"]) == 1, "it was meant for the server, which is still down"
    assert "http://127.0.0.1:9 did not take all of it" in printed(capsys)
    assert main(["sync", "tracking.uri=sqlite:///outputs/mlflow.db"]) == 0
    assert re.search(r"\d+ records delivered", printed(capsys))
    assert newest().run_id is not None
    assert main(["sync"]) == 0
    assert "Nothing waits" in printed(capsys)


def test_diff_tells_config_data_code_and_environment_apart(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CSV]) == 0
    first = newest()
    frame = pd.read_csv("table.csv")
    frame.loc[0, "x"] = 99.0
    frame[:-2].to_csv("table.csv", index=False)
    assert main([*CSV, "optimizer.lr=0.02", "+tags.team=blue"]) == 0
    second = newest()
    capsys.readouterr()
    assert main(["diff", first.fingerprint, second.label]) == 0
    said = printed(capsys)
    assert "config: optimizer.lr 0.003 -> 0.02 data: digest" in said
    assert re.search(r"columns\.x\.max 2\.\d+ -> 99\.0", said)
    assert re.search(r"rows\.train 72 -> 7\d", said)
    assert "code: the same environment: the same" in said
    assert re.search(r"neutral: \(cannot change a result\) .*tags.* blue", said)


def test_diff_names_the_files_of_code_that_changed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path("own_package")
    own.mkdir()
    (own / "__init__.py").write_text(OWN_MODEL)
    argv = ["model=linear", "model._target_=own_package.Mine", "trainer=debug", "progress=off", "gates=none"]
    assert main(argv) == 0
    first = newest()
    (own / "more.py").write_text("WIDTH = 3\n")
    assert main(argv) == 0
    second = newest()
    assert first.fingerprint == second.fingerprint
    capsys.readouterr()
    assert main(["diff", first.label, second.label]) == 0
    assert re.search(r"own_package/more\.py - -> \w{12}", printed(capsys))


def test_verify_reproduces_a_run_bit_for_bit(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "model=mlp", "scheduler=one_cycle"]) == 0
    run = newest()
    assert main(["verify", run.fingerprint, "progress=off"]) == 0
    assert f"reproduced bit for bit: 2 epochs, weights and predictions of run {run.label}" in printed(capsys)
    result = json.loads(Path("outputs", "verify", run.label, "result.json").read_text())
    assert (result["status"], result["exact"], result["differences"]) == ("reproduced", True, [])
    assert [path.name for path in Path("outputs", "verify").iterdir()] == [run.label], "the scratch folder is gone"
    assert len(local_runs("outputs")) == 1, "and nothing new is recorded"


def test_verify_exits_6_and_shows_what_differs_first(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    run = newest()
    history = json.loads((folder() / "history.json").read_text())
    history["epochs"][1]["train/loss"] += 1e-9
    (folder() / "history.json").write_text(json.dumps(history))
    weights = load_file(folder() / "weights.safetensors")
    weights[next(name for name in weights if name.startswith("model."))] += 1e-3
    save_file(weights, folder() / "weights.safetensors")
    capsys.readouterr()
    assert main(["verify", run.label, "progress=off"]) == 6
    said = printed(capsys)
    assert "not reproduced bit for bit" in said
    assert re.search(r"train/loss epoch 2 0\.\d+ 0\.\d+", said)
    assert re.search(r"weights \S+ off by up to 0\.001", said)
    result = json.loads(Path("outputs", "verify", run.label, "result.json").read_text())
    assert result["status"] == "not reproduced"
    assert {difference["what"] for difference in result["differences"]} == {"train/loss", "weights"}


def test_verify_in_another_environment_allows_a_tolerance_and_says_which(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK]) == 0
    run = newest()
    environment = json.loads((folder() / "environment.json").read_text())
    environment["packages"]["torch"] = "2.0"
    (folder() / "environment.json").write_text(json.dumps(environment))
    history = json.loads((folder() / "history.json").read_text())
    history["epochs"][1]["train/loss"] += 1e-6
    (folder() / "history.json").write_text(json.dumps(history))
    capsys.readouterr()
    assert main(["verify", run.label, "progress=off"]) == 0
    said = printed(capsys)
    assert f"within 0.001, because the environment is another (torch 2.0 -> {torch.__version__})" in said
    assert "reproduced within 0.001" in said
    assert main(["verify", run.label, "progress=off", "tolerance=0.00000001"]) == 6


def test_verify_tells_of_changed_data_and_code_before_it_trains(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(table)
    sys.modules.pop("own_model", None)
    Path("own_model.py").write_text(OWN_MODEL)
    argv = [*CSV, "model._target_=own_model.Mine"]
    assert main(argv) == 0
    run = newest()
    shutil.copy("table.csv", "moved.csv")
    with Path("table.csv").open("a") as file:
        file.write("7,Oslo,yes\n")
    Path("own_model.py").write_text(f"{OWN_MODEL}\n# another line\n")
    capsys.readouterr()
    assert main(["verify", run.label, "trust=[own_model]", "progress=off"]) == 2
    said = printed(capsys)
    assert "2 faults" in said
    assert "data: changed since the run was recorded" in said
    assert "allow=[code] compares all the same" in said
    assert "Training run" not in said
    moved = ["data.path=moved.csv", "trust=[own_model]", "allow=[code]", "progress=off"]
    assert main(["verify", run.label, *moved]) == 0, "the same data at another path"
    assert main(["verify", run.label, "allow=[data,code]", "trust=[own_model]", "progress=off"]) == 6


def test_verify_imports_only_what_is_trusted(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules.pop("own_hidden", None)
    Path("own_hidden.py").write_text(f"from pathlib import Path\nPath('imported').touch()\n{OWN_MODEL}")
    assert main([*CSV, "model._target_=own_hidden.Mine"]) == 0
    Path("imported").unlink()
    sys.modules.pop("own_hidden")
    assert main(["verify", newest().label, "progress=off"]) == 2
    assert "add its package to trust=[...], got 'own_hidden.Mine'" in printed(capsys)
    assert not Path("imported").exists()


def test_verify_refuses_a_record_that_was_edited(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    path = folder() / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 5", 1))
    assert main(["verify", newest().label]) == 2
    assert "config: changed since the run was recorded" in printed(capsys)
    path.write_text("seed: [")
    assert main(["verify", newest().label]) == 2
    assert "cannot be read" in printed(capsys)


def test_verify_works_where_only_mlflow_has_the_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    run = newest()
    assert run.run_id is not None
    shutil.rmtree("outputs/runs")
    assert main(["verify", run.run_id, "progress=off"]) == 0
    assert "reproduced bit for bit" in printed(capsys)


def test_a_run_can_start_from_anothers_weights_and_is_named_by_them(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK]) == 0
    first = newest()
    assert main(["check", *QUICK, "trainer.epochs=3"]) == 0
    assert f"init_from={first.fingerprint}" in printed(capsys), "check suggests it"
    longer = [*QUICK, "trainer.epochs=3"]
    assert main([*longer, f"init_from={first.fingerprint}"]) == 0
    second = newest()
    assert main([*longer, f"init_from={first.run_id}"]) == 0
    assert "Reused run" in printed(capsys), "however the run is called, it is the same one"
    assert main([*longer]) == 0
    fresh = newest()
    assert fresh.fingerprint != second.fingerprint
    losses = [
        json.loads((run.folder / "history.json").read_text())["epochs"][0]["train/loss"] for run in (second, fresh)
    ]  # type: ignore[operator]
    assert losses[0] < losses[1], "it had learnt something already"
    assert main(["verify", second.label, "progress=off"]) == 0


def test_weights_that_do_not_fit_are_a_fault_of_the_request(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK]) == 0
    assert main(["model=mlp", *QUICK[1:], f"init_from={newest().fingerprint}"]) == 2
    assert "init_from: its weights do not fit this model" in printed(capsys)


def test_a_killed_run_goes_on_in_its_folder_and_in_its_mlflow_run(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "trainer.checkpoint.every_epochs=1"]) == 0
    before = newest()
    weights = (folder() / "weights.safetensors").read_bytes()
    die(folder())
    spool = Spool(folder() / SPOOL)
    spool.close()
    capsys.readouterr()
    assert main(["check", *QUICK]) == 0
    said = printed(capsys)
    assert f"would go on in outputs/runs/{before.fingerprint}/{before.label}" in said
    assert main([*QUICK]) == 0
    assert re.search(rf"Resumed run {before.label} \(killed \d+ s ago\) from epoch 2, step \d+", printed(capsys))
    after = newest()
    assert (after.label, after.run_id, after.state) == (before.label, before.run_id, "finished")
    assert after.result is not None
    assert after.result["status"] == "resumed"
    assert (folder() / "weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "name", some(["history.json", "weights.safetensors", "config.yaml", "predictions.parquet"], every=2)
)
def test_a_damaged_record_is_told_before_anything_is_trained(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK]) == 0
    (folder() / name).write_bytes(b"")
    capsys.readouterr()
    assert main(["verify", newest().label]) in (1, 2)
    said = printed(capsys)
    assert name in said
    assert "Traceback" not in said
    assert "again; in this environment" not in said


def test_damaged_weights_are_no_start(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    (folder() / "weights.safetensors").write_bytes(b"")
    assert main([*QUICK, "trainer.epochs=3", f"init_from={newest().fingerprint}"]) == 1
    assert "weights.safetensors is missing or damaged" in printed(capsys)


@pytest.mark.slow
def test_a_store_that_was_deleted_gets_everything_again(workplace: Path) -> None:
    """A real process, because MLflow keeps files open, and a new store, which takes MLflow 3-8 s."""
    assert main([*QUICK]) == 0
    Path("outputs/mlflow.db").unlink()
    done = subprocess.run([sys.executable, "-m", "mlops_hydra", "sync"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ records delivered", done.stdout)
    connection = sqlite3.connect("outputs/mlflow.db")
    assert connection.execute("SELECT run_uuid, status FROM runs").fetchall() == [(newest().run_id, "FINISHED")]
    connection.close()


def test_a_project_that_was_moved_delivers_to_the_store_that_moved_with_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "before").mkdir()
    shutil.move("outputs", "before/outputs")
    monkeypatch.chdir(workplace / "before")
    assert main([*QUICK]) == 0
    run_id = newest().run_id
    delivery = json.loads((folder() / "delivery.json").read_text())
    (folder() / "delivery.json").write_text(json.dumps(delivery | {"offset": 10}))
    monkeypatch.chdir(workplace)
    shutil.move("before", "after")
    monkeypatch.chdir(workplace / "after")
    assert main(["sync"]) == 0
    assert newest().run_id == run_id
    assert not (workplace / "before" / "outputs" / "mlflow.db").exists(), "MLflow itself puts artifacts there"


def test_a_record_that_lost_its_end_is_measured_again_and_stands_once_in_mlflow(workplace: Path) -> None:
    argv = [*QUICK, "trainer.epochs=6", "trainer.checkpoint.every_epochs=2"]
    assert main(argv) == 0
    run = newest()
    die(folder())
    delivery = (folder() / "delivery.json").read_text()
    lines = (folder() / SPOOL).read_text().splitlines(keepends=True)
    metrics = [index for index, line in enumerate(lines) if '"kind": "metrics"' in line]
    (folder() / SPOOL).write_text("".join(lines[: metrics[3]]))
    (folder() / "delivery.json").write_text(delivery)
    assert main(argv) == 0
    assert newest().run_id == run.run_id
    history = open_client("sqlite:///outputs/mlflow.db").get_metric_history(str(run.run_id), "train/loss")
    assert sorted(point.step for point in history) == [1, 2, 3, 4, 5, 6]
