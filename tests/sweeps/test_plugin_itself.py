"""`hydra/sweeper=optuna`, hydra-optuna-sweeper as itself, and Hydra's basic sweeper drive our entry point."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from mlops_hydra.cli import main

QUICK = ("model=linear", "trainer=debug", "progress=off", "gates=none")
OPTUNA = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=1", *QUICK)
LR = "optimizer.lr=tag(log,interval(0.001,0.1))"
SEVERAL = "objective.others=[num_parameters]"


@pytest.fixture(autouse=True)
def _verbosity() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


def results_of_sweep(folder: Path) -> Any:
    return OmegaConf.load(folder / "outputs" / "multirun" / "optimization_results.yaml")


def results_of_runs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("outputs/runs/*/*/result.json")]


def test_tpe_searches_and_every_job_is_a_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OPTUNA, "hydra.sweeper.n_trials=3", LR]) == 0
    found, runs = results_of_sweep(workplace), results_of_runs(workplace)
    assert len(runs) == 3
    assert {run["status"] for run in runs} == {"new"}
    assert found.best_value == pytest.approx(min(run["metrics"]["val/log_loss"] for run in runs))
    assert list(found.best_params) == ["optimizer.lr"]
    assert main([*QUICK, f"optimizer.lr={found.best_params['optimizer.lr']}"]) == 0
    assert len(results_of_runs(workplace)) == 3, "the best alone is the run that was there"


@pytest.mark.slow
def test_several_objectives_give_a_front(workplace: Path) -> None:
    directions = "hydra.sweeper.direction=[minimize,minimize]"
    models = "model.hidden=[2],[4]"
    argv = [*OPTUNA, "model=mlp", "hydra.sweeper.n_trials=3", SEVERAL, directions, LR, models]
    assert main(argv) == 0
    found, runs = results_of_sweep(workplace), results_of_runs(workplace)
    measured = {(run["metrics"]["val/log_loss"], run["metrics"]["num_parameters"]) for run in runs}
    assert {tuple(solution["values"]) for solution in found.solutions} <= measured
    assert len(found.solutions) >= 1


def test_a_study_of_the_plugin_may_be_kept_in_sqlite(workplace: Path) -> None:
    url = f"sqlite:///{workplace}/plugin.db"
    argv = [*OPTUNA, "hydra.sweeper.n_trials=2", f"hydra.sweeper.storage={url}", "hydra.sweeper.study_name=kept", LR]
    assert main(argv) == 0
    study = optuna.load_study(study_name="kept", storage=url)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert results_of_sweep(workplace).best_params == study.best_params


@pytest.mark.parametrize("others", [[], [SEVERAL, "hydra.sweeper.direction=[minimize,minimize]"]], ids=["one", "two"])
def test_a_trial_that_fails_is_nan_and_the_command_exits_1(
    workplace: Path, others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    node = ["hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=4", "hydra.sweeper.max_failure_rate=1.0"]
    assert main([*OPTUNA, *node, *others, "model=mlp", "optimizer.lr=1e30,0.01"]) == 1
    assert "NonFiniteError" in capsys.readouterr().err
    assert {run["status"] for run in results_of_runs(workplace)} <= {"new", "reused"}
    found = results_of_sweep(workplace)
    best = found.solutions[0].params if others else found.best_params
    assert float(best["optimizer.lr"]) == 0.01


def test_the_basic_sweeper_runs_jobs_with_several_objectives(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *QUICK, SEVERAL, "seed=1,2"]) == 0
    assert len(results_of_runs(workplace)) == 2
    assert "model=linear" in capsys.readouterr().out


@pytest.mark.slow
def test_the_joblib_launcher_runs_the_plugins_jobs(workplace: Path) -> None:
    """A process for each core imports torch: 15 s."""
    node = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    command = [sys.executable, "-m", "mlops_hydra", *OPTUNA, *node, LR]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    runs = results_of_runs(workplace)
    assert len(runs) == 3
    assert results_of_sweep(workplace).best_value in {run["metrics"]["val/log_loss"] for run in runs}
