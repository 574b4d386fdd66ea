"""The command line: argv to exit code, what a person reads, and what each call leaves on the disk."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra import Observer, Training
from mlops_hydra.cli import main
from mlops_hydra.config.compose import compose

LOCAL = {"mlflow.db", "mlflow.db.lock", "artifacts", "runs", "graphs", "test_sets"}
QUICK = ("model=linear", "trainer=debug", "progress=plain")


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def result_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("outputs/runs/*/result.json")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything printed, on one line: tables wrap where they like."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_a_run_prints_a_summary_and_leaves_a_result(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK]) == 0
    printed = words(capsys)
    result = result_of(workplace)
    assert result["fingerprint"] == compose(QUICK).fingerprint
    assert set(result) == {
        "fingerprint", "run_id", "status", "reason", "task", "lineage", "metrics", "intervals", "gates", "verdict",
        "objective", "best_epoch", "num_epochs", "warnings", "test_set", "unpackaged",
    }  # fmt: skip
    for shown in (result["fingerprint"], "passed", "beats_baseline", "roc_auc", "latency_p95_ms", "epoch 2/2"):
        assert shown in printed
    folder = workplace / "outputs" / "runs" / result["fingerprint"]
    (lineage,) = (path for path in folder.iterdir() if path.is_dir())
    assert json.loads((lineage / "result.json").read_text()) == result
    assert {"predictions.parquet", "spool.jsonl", "run.log", "config.yaml", "weights.safetensors", "plots"} <= {
        path.name for path in lineage.iterdir()
    }


def test_a_failed_gate_exits_3_and_says_which_value_and_threshold(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "gates=strict", "gates.accuracy.threshold=0.999"]) == 3
    assert re.search(r"accuracy failed test/accuracy is 0\.9\d+, must be >= 0\.999", words(capsys))
    assert result_of(workplace)["verdict"] == "failed"


def test_three_faults_are_told_at_once_without_a_traceback_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["optimizer.lrr=1", "trainer.epochs=0", "data=digit"]) == 2
    captured = capsys.readouterr()
    for shown in ("3 faults", "Did you mean optimizer.lr?", "Did you mean digits?", "trainer.epochs"):
        assert shown in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert tree(tmp_path) == set()


@pytest.mark.parametrize(
    "argv",
    [
        ["check"],
        ["check", "model=linear", "seed=3"],
        ["--help"],
        ["check", "--help"],
        ["--cfg", "job"],
        ["--cfg", "job", "model=linear"],
        ["check", "--cfg", "job"],
        ["--info", "searchpath"],
        ["--hydra-help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_looking_creates_nothing(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 0
    assert tree(tmp_path) == set()


@pytest.mark.parametrize(
    "argv",
    [
        ["trainer.epochs=0"],
        ["no_command"],
        ["check", "trainer.epochs=0"],
        ["-m", "model=linear,mlpp"],
        ["-m", "model=linear,mlp", "trainer.epochs=1,0"],
        ["check", "-m", "seed=1,2"],
        ["model=linear,mlp"],
        ["--config-dir", "nowhere"],
        ["data=csv", "data.path=nowhere.csv", "data.target=x"],
        ["trainer.device=cuda:99"],
    ],
    ids=" ".join,
)
def test_a_wrong_request_exits_2_and_writes_nothing(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert tree(tmp_path) == set()
    assert "Traceback" not in capsys.readouterr().err


def test_a_misspelt_command_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chekc"]) == 2
    assert "Did you mean check?" in capsys.readouterr().err


def test_check_prints_what_would_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *QUICK]) == 0
    printed = words(capsys)
    assert compose(QUICK).fingerprint in printed
    assert "would train a new run in outputs/runs" in printed
    assert 'output_dir="outputs"' in printed, "the neutral fields are listed"


def test_what_check_announces_is_what_the_run_does(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", *QUICK])
    (announced,) = re.findall(r"train a new run in (\S+)", words(capsys))
    main([*QUICK])
    assert (workplace / announced / "result.json").exists()


def test_the_same_command_twice_gives_the_first_result_and_says_so(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK]) == 0
    first = result_of(workplace)
    assert capsys.readouterr().out.startswith(f"New run: nothing finished is recorded for {first['fingerprint']}\n")
    assert main([*QUICK]) == 0
    again = result_of(workplace)
    assert re.match(r"Reused run \w+ \(finished \d s ago\); reuse=never trains again\n", capsys.readouterr().out)
    assert (first["status"], again["status"]) == ("new", "reused")
    assert again["metrics"] == first["metrics"]
    assert again["run_id"] == first["run_id"]


def test_a_run_that_is_asked_for_anew_stands_beside_the_first(workplace: Path) -> None:
    assert main([*QUICK]) == main([*QUICK, "reuse=never"]) == 0
    folders = {path.name for path in workplace.glob("outputs/runs/*/*") if path.is_dir()}
    assert {name.partition("-")[2] for name in folders} == {"", "2"}
    metrics = [
        {name: value for name, value in json.loads(path.read_text())["metrics"].items() if "latency" not in name}
        for path in workplace.glob("outputs/runs/*/*/result.json")
    ]
    assert metrics[0] == metrics[1], "same code, data and config give the same result"


def test_a_multirun_makes_a_run_for_each_job_and_ends_with_a_table(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "model=linear,mlp", "seed=1,2", "trainer=debug", "progress=off"]) == 0
    results = [json.loads(path.read_text()) for path in workplace.glob("outputs/runs/*/result.json")]
    assert len({result["fingerprint"] for result in results}) == 4
    table = capsys.readouterr().out.split("configuration")[1]
    for model in ("linear", "mlp"):
        assert re.search(
            rf"model={model} +2 +0\.\d{{4}} ± 0\.\d{{4}} +0\.\d{{4}} ± 0\.\d{{4}} +2 passed +log_loss", table
        )
    assert {path.name for path in workplace.iterdir()} == {"outputs"}
    assert {path.name for path in (workplace / "outputs").iterdir()} <= {*LOCAL, "multirun"}
    assert {path.name for path in (workplace / "outputs" / "multirun").iterdir()} == {"multirun.yaml"}


def test_a_multirun_goes_on_after_a_failed_gate_and_exits_with_the_worst(workplace: Path) -> None:
    argv = ["-m", "trainer.epochs=1,2", "model=linear", "gates.beats_baseline.by=0%,99.9%", "progress=off"]
    assert main(argv) == 3
    assert len(list(workplace.glob("outputs/runs/*/*/result.json"))) == 2, "other gates are no other run"


def test_a_multirun_goes_on_after_a_crash_and_exits_1(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optimizer.lr=1e30,0.01", "model=mlp", "trainer=debug", "progress=off"]) == 1
    captured = capsys.readouterr()
    assert "in epoch 1" in captured.err
    assert "1 error" in captured.out
    assert len(list(workplace.glob("outputs/runs/*/*/result.json"))) == 1


def test_everything_a_run_creates_is_below_its_output_dir(workplace: Path) -> None:
    shutil.move(workplace / "outputs", workplace / "elsewhere")
    assert main([*QUICK, "output_dir=elsewhere"]) == 0
    assert {path.name for path in workplace.iterdir()} == {"elsewhere"}
    assert {path.name for path in (workplace / "elsewhere").iterdir()} <= LOCAL


def test_a_mixed_csv_with_missing_values_trains_without_a_manual_step(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    rows = 400
    frame = pd.DataFrame(
        {
            "größe": rng.normal(170, 10, rows),
            "income": rng.lognormal(10, 1, rows),
            "city": rng.choice(["Oslo", "Köln", "Lima", "Pune"], rows),
            "smoker": rng.choice([True, False], rows),
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1500, rows), unit="D"),
            "visits": rng.integers(0, 30, rows),
        }
    )
    signal = (frame["größe"] + 15 * (frame["city"] == "Lima") > 172).to_numpy()
    frame["joined"] = frame["joined"].dt.strftime("%Y-%m-%d")
    frame = frame.mask(rng.random(frame.shape) < 0.1)
    frame["churned"] = np.where(signal, "yes", "no")
    frame.to_csv("people.csv", index=False)
    argv = ["experiment=csv_table", "data.path=people.csv", "data.target=churned", "trainer.epochs=30", "progress=off"]
    assert main(argv) == 0
    assert result_of(workplace)["metrics"]["test/accuracy"] > 0.75
    predictions = pd.read_parquet(next(workplace.glob("outputs/runs/*/*/predictions.parquet")))
    assert {"row", "split", "target", "prediction", "p_no", "p_yes"} <= set(predictions.columns)
    assert set(predictions["target"]) == {"no", "yes"}


def test_the_module_and_the_script_are_the_same_real_process(workplace: Path) -> None:
    """Two real processes, about 4 s: what the console script and `python -m` do is not seen in this one."""
    script = Path(sys.executable).parent / "mlops-hydra"
    for command in ([sys.executable, "-m", "mlops_hydra"], [str(script)]):
        done = subprocess.run([*command, "check", *QUICK], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert compose(QUICK).fingerprint in done.stdout


def test_a_traceback_is_there_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["trainer.epochs=0"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_distributed_launcher_is_refused(
    monkeypatch: pytest.MonkeyPatch, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*QUICK]) == 2
    assert "one process" in words(capsys)


def test_warnings_are_still_heard_in_and_after_a_multirun(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra's own way to switch its logging off would switch off ours with it."""
    pd.DataFrame({"x": np.arange(80.0), "one": 1, "label": [0, 1] * 40}).to_csv("a.csv", index=False)
    data = ["data=csv", "data.path=a.csv", "data.target=label", "gates=none", *QUICK]
    for argv in (["-m", *data], data):
        assert main(argv) == 0
        assert "the same value in every training row: one" in capsys.readouterr().err


def test_a_command_may_stand_anywhere(capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    assert main(["seed=1", "check"]) == 0
    assert "would" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--cfg", "job", "optimizer.lrr=1"], ["check", "foo"]], ids=" ".join)
def test_looking_at_a_wrong_request_exits_2_in_our_words(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert "The request is wrong (1 fault)" in captured.err
    assert "object_type" not in captured.err


def test_a_reader_that_goes_away_ends_no_training(workplace: Path) -> None:
    """A real process whose output nobody reads after the first line, about 6 s."""
    command = [sys.executable, "-m", "mlops_hydra", *QUICK, "trainer.epochs=20"]
    with subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 0, said
    assert result_of(workplace)["verdict"] == "passed"


def test_a_password_in_the_tracking_uri_is_nowhere_to_be_read(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens on port 9; delivery gives up after its attempts, 2-4 s."""
    secret = ["tracking=server", "tracking.uri=http://user:hunter2@127.0.0.1:9", "tracking.timeout_seconds=2"]
    assert main(["check", *QUICK, *secret]) == 0
    assert main([*QUICK, *secret]) == 0
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    texts = [path for path in workplace.rglob("*") if path.suffix in (".yaml", ".json", ".jsonl", ".log")]
    assert texts
    assert not [path for path in texts if "hunter2" in path.read_text()]


class Interrupting(Observer):
    """Ctrl-C in the second job of a multirun."""

    def on_epoch_end(self, training: Training) -> None:
        if Path("first").exists():
            raise KeyboardInterrupt
        Path("first").touch()


def test_ctrl_c_in_a_multirun_sums_up_what_there_is_and_exits_130(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "own_cli.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(workplace)
    argv = ["-m", "model=linear", "trainer.epochs=1", "progress=off", "seed=1,2,3"]
    assert main([*argv, "+callbacks.stop._target_=own_cli.Interrupting"]) == 130
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "1 error" in captured.out
