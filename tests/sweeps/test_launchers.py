"""Studies of ours through Hydra's launchers, on the command line, in processes of their own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from mlops_hydra.cli import main

QUICK = ("model=linear", "trainer=debug", "progress=off", "gates=none")
LR = "optimizer.lr=tag(log,interval(0.001,0.1))"
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
TPE = ("-m", "sweeps=tpe", "sweeps.workers=2", *QUICK, LR)
MARK = "MLOPS_HYDRA_TEST"


def start(argv: Sequence[str], folder: Path, **env: str) -> "subprocess.Popen[bytes]":
    """A command in a session of its own, as a terminal has one; all its processes carry `MARK`."""
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "mlops_hydra", *argv],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, MARK: str(folder), **env},
        )


def left_running(folder: Path, patience_seconds: float = 5.0) -> list[str]:
    """Command lines of processes that a command started in `folder` and that outlive it."""
    end = time.monotonic() + patience_seconds
    while (found := _marked(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _marked(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def only_study(folder: Path) -> optuna.Study:
    url = f"sqlite:///{folder}/outputs/studies/studies.db"
    (name,) = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=name, storage=url)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def results_of_sweep(folder: Path) -> Any:
    return OmegaConf.load(folder / "outputs" / "multirun" / "optimization_results.yaml")


@pytest.mark.slow
def test_joblib_runs_exactly_the_trials_and_lets_go(workplace: Path) -> None:
    """Two processes import torch: about 15 s; joblib's workers once kept the command from ending for 300 s."""
    began = time.monotonic()
    process = start([*TPE, *JOBLIB, "sweeps.n_trials=4"], workplace)
    assert process.wait(60) == 0, (workplace / "said").read_text()
    assert time.monotonic() - began < 60
    assert left_running(workplace) == []
    study = only_study(workplace)
    assert states(study) == ["COMPLETE"] * 4
    assert results_of_sweep(workplace).best_value == study.best_value
    owners = {trial.system_attrs["mlops_hydra:owner"]["pid"] for trial in study.trials}
    assert process.pid not in owners, "the launcher's processes worked, not this one"
    assert {path.name for path in (workplace / "outputs" / "multirun").iterdir()} == {"optimization_results.yaml"}


@pytest.mark.slow
def test_the_node_alone_asks_for_a_study(workplace: Path) -> None:
    """Two worker processes, and no `sweeps=`."""
    node = ["hydra/sweeper=mlops_hydra", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    assert main(["-m", *node, *QUICK, LR]) == 0
    study = only_study(workplace)
    assert states(study) == ["COMPLETE"] * 3
    assert results_of_sweep(workplace).best_value == study.best_value
    assert results_of_sweep(workplace).best_params == study.best_params
    assert main(["-m", *node, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", *QUICK, LR]) == 0
    assert len(only_study(workplace).trials) == 4


def test_a_winner_that_fails_a_strict_gate_gives_exit_code_3(workplace: Path) -> None:
    node = ["hydra/sweeper=mlops_hydra", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    argv = ["-m", *node, *QUICK, "gates=strict", "gates.accuracy.threshold=0.9999", LR]
    assert main(argv) == 3
    assert states(only_study(workplace)) == ["COMPLETE"] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        ["optimizer.lrr=interval(0.0,1.0)"],
        [LR, "hydra.sweeper.direction=maximize"],
        [LR, "hydra.sweeper.n_trials=0"],
        [LR, "hydra.sweeper.pruner=median"],
    ],
    ids=["key", "direction", "n_trials", "pruner"],
)
def test_a_wrong_request_exits_2_with_its_faults_and_writes_nothing(
    wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "hydra/sweeper=mlops_hydra", *QUICK, *wrong]) == 2
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert wrong[-1].partition("=")[0] in said


@pytest.mark.slow
def test_ctrl_c_with_joblib_leaves_no_orphans_and_a_study_to_go_on_with(workplace: Path) -> None:
    """Three commands with two processes each."""
    argv = [*TPE, *JOBLIB, "sweeps.n_trials=4", "trainer.epochs=1500"]
    process = start(argv, workplace)
    end = time.monotonic() + 60
    while time.monotonic() < end and len(list(workplace.glob("outputs/runs/*/*/spool.jsonl"))) < 2:
        time.sleep(0.5)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    code = process.wait(30)
    assert code == 130, (workplace / "said").read_text()
    assert left_running(workplace, 15) == []
    before = len(only_study(workplace).trials)
    assert set(states(only_study(workplace))) <= {"WAITING", "RUNNING", "COMPLETE"}
    assert start(argv, workplace).wait(240) == 0, (workplace / "said").read_text()
    assert before <= len(only_study(workplace).trials) == 4
    assert states(only_study(workplace)) == ["COMPLETE"] * 4


@pytest.mark.slow
def test_ray_runs_exactly_the_trials_and_leaves_no_process(workplace: Path, short_folder: Path) -> None:
    """A real local Ray, in 30 s; its folder is not below `tmp_path`: a socket's path takes 107 bytes."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'mlops-hydra[ray]'")
    init = [
        "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.include_dashboard=false",
        f"+hydra.launcher.ray.init._temp_dir={short_folder}",
    ]
    process = start([*TPE, "hydra/launcher=ray", *init, "sweeps.n_trials=4"], workplace, HOME=str(workplace))
    assert process.wait(180) == 0, (workplace / "said").read_text()
    assert left_running(workplace, 20) == []
    assert states(only_study(workplace)) == ["COMPLETE"] * 4
    assert results_of_sweep(workplace).best_value == only_study(workplace).best_value
