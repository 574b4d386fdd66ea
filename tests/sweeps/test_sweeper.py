"""One YAML node under both names, `hydra/sweeper=optuna` and `hydra/sweeper=mlops_hydra`, with a task that is not ours.

What the two have in common is asserted of both; what ours adds stands beside what the plug-in does instead.
"""

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra import report
from tests.sampled import some

PLUGIN, OURS = "optuna", "mlops_hydra"
PLUGIN_CONFIG = "hydra_plugins.hydra_optuna_sweeper.config"
BOTH = (PLUGIN, OURS)
WHITELIST = ("hydra.*", "hydra_plugins.*", "own.*")
SPACE = {
    "optim": "choice(adam,sgd)",
    "layers": "range(1,5)",
    "dropout": "range(0.0,0.5,0.1)",
    "momentum": "interval(0.0,0.9)",
    "lr": "tag(log,interval(0.001,0.1))",
    "units": "int(interval(1,8))",
    "width": "tag(log,int(interval(1,64)))",
    "model": "small,large",
}
GRID = {"optim": "choice(sgd,adam)", "layers": "range(1,5,2)", "dropout": "range(0.0,0.3,0.1)"}
CONFIG = """
defaults: [model: small, _self_, override hydra/job_logging: none, override hydra/hydra_logging: none]
optim: adam
layers: 1
dropout: 0.0
momentum: 0.0
lr: 0.01
units: 1
width: 1
bad: []
hydra:
  sweep: {dir: out}
  sweeper: {n_trials: 3, n_jobs: 1, study_name: study, storage: sqlite:///kept.db, sampler: {seed: 1}, params: {}}
"""
OWN = """
def widen(cfg, trial):
    trial.suggest_float("+extra", 0, trial.params["layers"])
    trial.suggest_categorical("units", [5])

def alone(cfg, trial):
    trial.suggest_int("width", 1, 64)

class Count:
    jobs = []
    def on_multirun_start(self, **_): pass
    def on_multirun_end(self, **_): pass
    def on_job_start(self, config, **_): self.jobs.append(config.hydra.job.num)
    def on_job_end(self, **_): pass
"""

Run = Callable[..., Path]


def loss(cfg: Any) -> float:
    """Smallest where all numbers are; NaN or an exception where the test asks for it."""
    number = HydraConfig.get().job.num
    if number in cfg.bad:
        raise ValueError(f"trial {number} is bad")
    return float(cfg.layers + cfg.dropout + cfg.momentum + cfg.lr + cfg.units + cfg.width + cfg.model.depth)


def losses(cfg: Any) -> list[float]:
    return [loss(cfg), -(loss(cfg) ** 2)]


def nan(cfg: Any) -> float:
    return math.nan


def infinite_at_first(cfg: Any) -> float:
    return math.inf if HydraConfig.get().job.num == 0 else loss(cfg)


def nothing(cfg: Any) -> None:
    return None


def trained(cfg: Any) -> float:
    """Six epochs: odd trials are hopeless from the first, and would lower their loss at the very end."""
    for epoch in range(1, 7):
        report(100.0 if HydraConfig.get().job.num % 2 else 1.0 / epoch, epoch)
    return 0.0 if HydraConfig.get().job.num % 2 else 1.0


def write_app(folder: Path) -> None:
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text(CONFIG)
    for depth, name in enumerate(("small", "large"), start=1):
        (folder / "conf" / "model" / f"{name}.yaml").write_text(f"depth: {depth}")
    (folder / "own.py").write_text(OWN)


def with_space(space: dict[str, str]) -> list[str]:
    return [f"+hydra.sweeper.params.{name}='{values}'" for name, values in space.items()]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line of another test has its own handler for the package's log; here it is another application."""
    monkeypatch.setattr(logging.getLogger("mlops_hydra"), "handlers", [])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `task` as a Hydra application, in a folder for each sweeper, which it returns; expects an exit code."""
    monkeypatch.delitem(sys.modules, "own", raising=False)
    verbosity = optuna.logging.get_verbosity()

    def run_(sweeper: str, *overrides: str, task: Callable[[Any], Any] = loss, code: int = 0) -> Path:
        folder = tmp_path / sweeper
        if not folder.exists():
            write_app(folder)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(sys, "argv", ["app", "-m", f"hydra/sweeper={sweeper}", *overrides])
        main = hydra.main(config_path=str(folder / "conf"), config_name="config", execution_whitelist=WHITELIST)
        ended = 0
        try:
            main(task)()
        except SystemExit as exit_:
            ended = int(exit_.code or 0)
        assert ended == code
        return folder

    yield run_
    optuna.logging.set_verbosity(verbosity)


def study_in(folder: Path, name: str = "study") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/kept.db")


def trials_in(folder: Path) -> list[FrozenTrial]:
    return study_in(folder).trials


def results_in(folder: Path) -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.load(folder / "out" / "optimization_results.yaml"))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in trials_in(folder)]


# The same under both names


def test_both_search_the_same_distributions(run: Run) -> None:
    found = [[trial.distributions for trial in trials_in(run(sweeper, *with_space(SPACE)))] for sweeper in BOTH]
    assert found[0] == found[1]
    assert set(found[0][0]) == set(SPACE)
    assert len(found[0]) == 3


@pytest.mark.parametrize("seed", some(["7", "null"], every=2))
def test_both_try_the_same_points_of_a_grid_in_the_same_order(run: Run, seed: str) -> None:
    grid = ["hydra/sweeper/sampler=grid", f"hydra.sweeper.sampler.seed={seed}", "hydra.sweeper.n_trials=100"]
    found = [[trial.params for trial in trials_in(run(sweeper, *grid, *with_space(GRID)))] for sweeper in BOTH]
    assert found[0] == found[1]
    assert len(found[0]) == 2 * 2 * 3


def test_both_leave_the_same_fields_for_one_objective(run: Run) -> None:
    for sweeper in BOTH:
        folder = run(sweeper, *with_space(SPACE))
        found, best = results_in(folder), study_in(folder).best_trial
        assert list(found) == ["name", "best_params", "best_value"]
        assert (found["name"], found["best_params"], found["best_value"]) == ("optuna", best.params, best.value)
        assert list(found["best_params"]) == list(SPACE)


def test_both_leave_the_same_fields_for_several_objectives(run: Run) -> None:
    for sweeper in BOTH:
        folder = run(sweeper, "hydra.sweeper.direction=[minimize,maximize]", *with_space(SPACE), task=losses)
        found, best = results_in(folder), study_in(folder).best_trials
        assert list(found) == ["name", "solutions"]
        assert found["solutions"] == [{"params": trial.params, "values": trial.values} for trial in best]


def test_the_folders_of_trials_are_those_of_the_plugin(run: Run) -> None:
    trees, kept = [], []
    for sweeper in BOTH:
        folder = run(sweeper, "+fixed=1", "hydra/sweeper/sampler=grid", *with_space({"layers": "range(2,5)"}))
        trees.append({path.relative_to(folder).as_posix() for path in (folder / "out").rglob("*")})
        hydra_yaml = OmegaConf.load(folder / "out" / "2" / ".hydra" / "hydra.yaml").hydra
        files = [(folder / "out" / "2" / ".hydra" / name).read_text() for name in ("config.yaml", "overrides.yaml")]
        kept.append([*files, hydra_yaml.job, hydra_yaml.overrides.task])
    assert trees[0] == trees[1]
    assert kept[0] == kept[1]
    assert "layers=" in kept[0][1]


def test_callbacks_hear_of_trials_alone(run: Run) -> None:
    heard = []
    for sweeper in BOTH:
        sys.modules.pop("own", None)
        run(sweeper, "+hydra.callbacks.count._target_=own.Count", *with_space(SPACE))
        heard.append(sys.modules["own"].Count.jobs)
    assert heard == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("sweeper", BOTH)
def test_a_trial_may_change_its_directory(run: Run, sweeper: str) -> None:
    def leave(cfg: Any) -> float:
        Path("left").touch()
        return loss(cfg)

    folder = run(sweeper, "hydra.job.chdir=true", *with_space(SPACE), task=leave)
    assert sorted(path.parent.name for path in folder.rglob("left")) == ["0", "1", "2"]
    assert len(trials_in(folder)) == 3


@pytest.mark.parametrize("sweeper", BOTH)
def test_a_group_may_have_no_option_but_the_swept_ones(run: Run, sweeper: str, tmp_path: Path) -> None:
    write_app(tmp_path / sweeper)
    path = tmp_path / sweeper / "conf" / "config.yaml"
    path.write_text(path.read_text().replace("model: small", "model: '???'").replace("layers: 1", "layers: ???"))
    folder = run(sweeper, *with_space(SPACE))
    assert states(folder) == ["COMPLETE"] * 3


OPTIONS = {
    "tpe": ["hydra.sweeper.sampler.n_startup_trials=1", "hydra.sweeper.sampler.multivariate=true"],
    "random": [],
    "cmaes": ["hydra.sweeper.sampler.popsize=4", "hydra.sweeper.sampler.warn_independent_sampling=false"],
    "nsgaii": ["hydra.sweeper.sampler.population_size=2"],
    "nsgaiii": ["hydra.sweeper.sampler.population_size=2", "hydra.sweeper.sampler.reference_points=[[0.5],[1.0]]"],
    "grid": [],
    "gp": ["hydra.sweeper.sampler.n_startup_trials=1", "hydra.sweeper.sampler.warn_independent_sampling=false"],
    "qmc": ["hydra.sweeper.sampler.scramble=true", "hydra.sweeper.sampler.warn_independent_sampling=false"],
}


def test_every_sampler_of_the_plugin_is_looked_at() -> None:
    names = {name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/sweeper/sampler")}
    assert names - {"motpe"} == set(OPTIONS)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [n if n == "tpe" else pytest.param(n, marks=pytest.mark.slow) for n in OPTIONS])
def test_every_sampler_of_the_plugin_is_accepted_and_seeded(run: Run, name: str) -> None:
    space = with_space(GRID if name == "grid" else {"layers": "range(1,9)", "lr": SPACE["lr"]})
    node = [f"hydra/sweeper/sampler={name}", *OPTIONS[name], *space, "hydra.sweeper.n_trials=5"]
    folder = run(OURS, *node)
    points = [trial.params for trial in trials_in(folder)]
    assert states(folder) == ["COMPLETE"] * 5
    assert len({str(point) for point in points}) > 1
    run(OURS, *node, "hydra.sweeper.study_name=again")
    assert [trial.params for trial in study_in(folder, "again").trials] == points
    run(OURS, *node, "hydra.sweeper.study_name=other", "hydra.sweeper.sampler.seed=2")
    assert [trial.params for trial in study_in(folder, "other").trials] != points


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ([], "MINIMIZE"),
        (["hydra.sweeper.direction=maximize"], "MAXIMIZE"),
        (["hydra.sweeper.direction=[maximize]"], "MAXIMIZE"),
        (["hydra.sweeper.direction=minimize"], "MINIMIZE"),
    ],
    ids=str,
)
def test_a_direction_is_a_text_the_default_enum_or_a_list(run: Run, given: list[str], way: str) -> None:
    for sweeper in BOTH:
        folder = run(sweeper, *given, *with_space(SPACE))
        values = [trial.value for trial in trials_in(folder)]
        assert study_in(folder).direction.name == way
        assert results_in(folder)["best_value"] == (max if way == "MAXIMIZE" else min)(values)  # type: ignore[type-var]


def test_a_misspelt_direction_is_refused_rather_than_taken_for_the_other(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(OURS, "hydra.sweeper.direction=maximise", *with_space(SPACE), code=1)
    assert "hydra.sweeper.direction: must be minimize, maximize" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("sweeper", BOTH)
def test_a_custom_search_space_adds_to_the_parameters(run: Run, sweeper: str) -> None:
    own = "hydra.sweeper.custom_search_space=own.widen"
    folder = run(sweeper, own, *with_space({"layers": "range(1,5)"}))
    for trial in trials_in(folder):
        assert list(trial.params) == ["layers", "+extra", "units"]
        config = OmegaConf.load(folder / "out" / str(trial.number) / ".hydra" / "config.yaml")
        assert (config.extra, config.units) == (trial.params["+extra"], 5)


@pytest.mark.parametrize("sweeper", BOTH)
def test_a_custom_search_space_may_be_all_there_is(run: Run, sweeper: str) -> None:
    folder = run(sweeper, "hydra.sweeper.custom_search_space=own.alone")
    assert [list(trial.params) for trial in trials_in(folder)] == [["width"]] * 3


def test_what_stands_on_the_command_line_goes_before_the_nodes_params(run: Run) -> None:
    for sweeper in BOTH:
        folder = run(sweeper, *with_space(SPACE), "layers=3", "lr=interval(0.5,0.6)")
        for trial in trials_in(folder):
            assert "layers" not in trial.params
            assert 0.5 <= trial.params["lr"] <= 0.6
    (first, *_) = (OmegaConf.load(folder / "out" / "0" / ".hydra" / "overrides.yaml"),)
    assert "layers=3" in first


# What ours adds


@pytest.mark.slow
def test_the_same_command_goes_on_to_the_total_where_the_plugin_starts_again(run: Run) -> None:
    node = with_space(SPACE)
    for sweeper, total in ((PLUGIN, 8), (OURS, 5)):
        run(sweeper, *node)
        before = [trial.params for trial in trials_in(run(sweeper, *node, "hydra.sweeper.n_trials=5"))]
        assert len(before) == total
    folder = run(OURS, *node, "hydra.sweeper.n_trials=5")
    assert [trial.params for trial in trials_in(folder)] == before, "nothing was left to do"
    run(OURS, *node, "hydra.sweeper.n_trials=5", "hydra.sweeper.study_name=once")
    assert [trial.params for trial in study_in(folder, "once").trials] == before, "3 + 2 are 5 in one go"
    assert "layers" in (folder / "out" / "0" / ".hydra" / "overrides.yaml").read_text(), "trial 0's, not a worker's"


def test_a_changed_space_refuses_to_mix(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(OURS, *with_space(SPACE))
    folder = run(OURS, *with_space(SPACE), "units=3", "hydra.sweeper.n_trials=5", code=1)
    said = capsys.readouterr().err
    assert "study study is of something else" in said
    assert "Traceback" not in said
    assert len(trials_in(folder)) == 3


def test_a_store_of_the_plugin_is_not_mixed_with_ours(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(PLUGIN, *with_space(SPACE))
    run(OURS, *with_space(SPACE), f"hydra.sweeper.storage=sqlite:///{folder}/kept.db", code=1)
    said = capsys.readouterr().err
    assert "has trials of another program; go on with another study" in said
    assert len(trials_in(folder)) == 3


def test_a_config_with_nan_in_it_is_the_same_config_the_next_time(run: Run) -> None:
    for total in (2, 3):
        folder = run(OURS, "+fill=nan", *with_space(SPACE), f"hydra.sweeper.n_trials={total}")
        assert len(trials_in(folder)) == total


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_sweep_of_nothing_but_nan_says_so_in_one_line(
    run: Run, rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    node = [f"hydra.sweeper.max_failure_rate={rate}", *with_space(SPACE)]
    run(PLUGIN, *node, task=nan, code=1)
    assert "Traceback" in capsys.readouterr().err, "the plug-in crashes"
    folder = run(OURS, *node, task=nan, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the objective is nan" in line
    assert ("no trial came to its end" in line) == (rate == 1.0)
    assert results_in(folder) == {"name": "optuna", "best_params": None, "best_value": None}


def test_a_task_that_returns_nothing_is_told_what_it_should(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(OURS, *with_space(SPACE), task=nothing, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "must return a number for each objective, not None" in line


def test_an_infinite_objective_fails_here_and_is_a_value_of_the_plugin(run: Run) -> None:
    for sweeper, first in ((PLUGIN, "COMPLETE"), (OURS, "FAIL")):
        folder = run(sweeper, "hydra.sweeper.max_failure_rate=0.5", *with_space(SPACE), task=infinite_at_first)
        assert states(folder) == [first, "COMPLETE", "COMPLETE"]


def test_a_failing_job_within_the_rate_goes_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    node = ["hydra.sweeper.n_trials=4", *with_space(SPACE), "hydra.sweeper.max_failure_rate=0.25"]
    folder = run(OURS, *node, "bad=[1]")
    assert states(folder) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials_in(folder)[1].user_attrs["error"] == "ValueError: trial 1 is bad"
    capsys.readouterr()
    run(OURS, *node, "bad=[1,2]", "hydra.sweeper.study_name=worse", code=1)
    said = capsys.readouterr().err
    line = said.strip().splitlines()[-1]
    assert "Traceback" not in said
    assert "2 trials failed, more than max_failure_rate=0.25 of 4 allows. The first, trial 1: ValueError" in line
    assert [trial.state.name for trial in study_in(folder, "worse").trials] == ["COMPLETE", "FAIL", "FAIL"]


def test_a_pruner_in_the_node_stops_what_is_hopeless(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    median = "{_target_: optuna.pruners.MedianPruner, n_startup_trials: 1, n_warmup_steps: 1}"
    folder = run(OURS, f"hydra.sweeper.pruner={median}", "hydra.sweeper.n_trials=4", *with_space(SPACE), task=trained)
    trials = trials_in(folder)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED] * 2
    assert [len(trial.intermediate_values) for trial in trials] == [6, 1, 6, 1]
    assert results_in(folder)["best_value"] == 1.0
    assert "Error" not in capsys.readouterr().err


@pytest.mark.parametrize("sweeper", BOTH)
def test_reports_are_heard_by_nobody_without_a_pruner(run: Run, sweeper: str) -> None:
    folder = run(sweeper, *with_space(SPACE), task=trained)
    assert states(folder) == ["COMPLETE"] * 3
    assert not any(trial.intermediate_values for trial in trials_in(folder))


def test_a_pruner_and_several_objectives_are_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pruner = "hydra.sweeper.pruner={_target_: optuna.pruners.MedianPruner}"
    run(OURS, pruner, "hydra.sweeper.direction=[minimize,maximize]", *with_space(SPACE), task=losses, code=1)
    assert "works with one objective" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([f"hydra.sweeper.sampler._target_={PLUGIN_CONFIG}.raise_motpe_removed"], "was removed in Optuna"),
        (["hydra.sweeper.pruner=median"], "hydra.sweeper.pruner"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials"),
        (["hydra/sweeper/sampler=grid", "lr=interval(0.1,0.2)"], "a grid needs values one can list"),
        (["lr=glob(*)"], "cannot be searched"),
    ],
    ids=["motpe", "pruner", "n_trials", "grid", "glob"],
)
def test_a_wrong_node_stops_before_the_first_trial_and_writes_nothing(
    run: Run, wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(OURS, *with_space({"layers": "range(1,5)"}), *wrong, code=1)
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert {path.name for path in folder.iterdir()} <= {"conf", "own.py", "__pycache__"}


# In processes of their own

SCRIPT = """
import logging
import hydra

@hydra.main(config_path="conf", config_name="config", execution_whitelist=["app.*"])
def main(cfg):
    logging.getLogger("app").info("layers=%s", cfg.layers)
    return cfg.layers + cfg.lr

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_two_jobs_of_joblib_share_one_study(tmp_path: Path) -> None:
    """Two processes import torch: about 10 s."""
    write_app(tmp_path)
    (tmp_path / "app.py").write_text(SCRIPT)
    (tmp_path / "conf" / "config.yaml").write_text(CONFIG.replace("job_logging: none", "job_logging: default"))
    node = ["hydra/sweeper=mlops_hydra", "hydra/launcher=joblib", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=5"]
    command = [sys.executable, "app.py", "-m", *node, "layers=range(1,9)", "lr=interval(0.0,0.5)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    trials = trials_in(tmp_path)
    assert states(tmp_path) == ["COMPLETE"] * 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*"01234", "optimization_results.yaml"}
    for trial in trials:
        folder = tmp_path / "out" / str(trial.number)
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        assert {name: config[name] for name in trial.params} == trial.params
        logged = (folder / "app.log").read_text()
        assert logged.count("layers=") == 1
        assert f"Trial {trial.number}: " in logged


def test_the_groups_of_this_package_are_none_of_another_application(run: Run, tmp_path: Path) -> None:
    write_app(tmp_path / PLUGIN)
    path = tmp_path / PLUGIN / "conf" / "config.yaml"
    path.write_text(path.read_text().replace("layers: 1", "layers: 1\noptimizer: adam"))
    run(PLUGIN, *with_space(SPACE), "optimizer=sgd")
