"""Every YAML below conf/: says what it is for and how to use it, composes, is checked, and can be built."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from mlops_hydra.config.ab import AbConfig
from mlops_hydra.config.commands import (
    CleanConfig,
    DiffConfig,
    PredictConfig,
    PromoteConfig,
    RollbackConfig,
    RunsConfig,
    SyncConfig,
    VerifyConfig,
)
from mlops_hydra.config.compose import compose, compose_command, split_swept
from mlops_hydra.config.drift import DriftConfig
from mlops_hydra.config.roots import Roots, packaged_conf
from mlops_hydra.config.schema import DataConfig, ExperimentConfig, TrainerConfig
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.config.targets import build
from mlops_hydra.errors import ConfigError

FILES = sorted(packaged_conf().rglob("*.yaml"))
OPTIONS = [path for path in FILES if path.parent != packaged_conf()]
COMMANDS = {
    "runs": RunsConfig, "clean": CleanConfig, "sync": SyncConfig, "diff": DiffConfig, "verify": VerifyConfig,
    "predict": PredictConfig, "promote": PromoteConfig, "rollback": RollbackConfig,
    "serve": ServeConfig, "ab": AbConfig, "drift": DriftConfig,
}  # fmt: skip
ROOTS = {"config", "command", "monitoring", *COMMANDS}
EXPERIMENTS = [path for path in FILES if path in OPTIONS or path.stem == "config"]


def name_of(path: Path) -> str:
    return path.relative_to(packaged_conf()).as_posix()


def test_there_are_files_to_test() -> None:
    assert len(FILES) >= 30
    assert {path.parent.name for path in OPTIONS} == {
        "data", "experiment", "gates", "model", "optimizer", "scheduler", "sweeps", "tracking", "trainer"
    }  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of one's own, as CSV and Parquet, in the current directory."""
    monkeypatch.chdir(tmp_path)
    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "label"})
    frame.to_csv("table.csv", index=False)
    frame.to_parquet("table.parquet")
    return tmp_path


def command_of(path: Path) -> list[str]:
    """The overrides of the command in the file's head."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    assert re.match(r"# [A-Z].*[.:;)\w]$", lines[0]), f"{name_of(path)}: the first line says what it is for"
    assert lines[1].startswith("# mlops-hydra"), f"{name_of(path)}: the second line is a command that runs"
    return shlex.split(lines[1].removeprefix("# mlops-hydra"))


def composed(path: Path) -> ExperimentConfig:
    """What the command of a file asks for; of a study, what all trials share."""
    fixed, swept = split_swept([word for word in command_of(path) if word != "-m"])
    assert bool(swept) == (path.parent.name == "sweeps" and path.stem != "none")
    return compose(fixed)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_config_of_a_command_is_what_its_schema_says(command: str) -> None:
    words = command_of(packaged_conf() / f"{command}.yaml")
    assert words[0] == command
    overrides = [word for word in words if "=" in word]
    assert compose_command(COMMANDS[command], overrides, Roots(config_name=command)).output_dir == "outputs"


def test_every_file_at_the_top_is_a_root() -> None:
    assert {path.stem for path in FILES if path not in OPTIONS} == ROOTS


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_its_command_composes_to_a_checked_experiment(path: Path, table: Path) -> None:
    assert isinstance(composed(path), ExperimentConfig)


@pytest.mark.parametrize("path", [p for p in OPTIONS if p.stem != "base"], ids=name_of)
def test_its_command_or_its_name_selects_it(path: Path, table: Path) -> None:
    group, option = path.parent.name, path.stem
    config = composed(path)
    assert dict(config.origin.choices)[group] == option or option == "default"


@pytest.mark.parametrize("path", sorted((packaged_conf() / "model").glob("*.yaml")), ids=name_of)
def test_every_model_is_built_and_keeps_its_shapes(path: Path) -> None:
    config = compose([f"model={path.stem}"])
    model = build(config.model, {"in_features": 64, "in_shape": (1, 8, 8), "out_features": 10})
    rows = torch.zeros(3, 1, 8, 8) if "channels" in config.model.args else torch.zeros(3, 64)
    assert model(rows).shape == (3, 10)


@pytest.mark.parametrize("path", sorted((packaged_conf() / "optimizer").glob("*.yaml")), ids=name_of)
def test_every_optimizer_is_built(path: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = build(compose([f"optimizer={path.stem}"]).optimizer, {"params": [parameter]})
    assert isinstance(optimizer, torch.optim.Optimizer)


@pytest.mark.parametrize("path", sorted((packaged_conf() / "scheduler").glob("*.yaml")), ids=name_of)
def test_every_scheduler_is_built(path: Path) -> None:
    config = compose([f"scheduler={path.stem}"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    if config.scheduler is None:
        assert path.stem == "none"
    else:
        assert hasattr(build(config.scheduler, {"optimizer": optimizer, "total_steps": 10}), "step")


@pytest.mark.parametrize("path", sorted((packaged_conf() / "data").glob("*.yaml")), ids=name_of)
def test_every_data_option_loads_three_splits(path: Path, table: Path) -> None:
    from mlops_hydra.data.sources import open_source

    overrides = command_of(path)
    if path.stem in ("csv", "parquet"):
        assert isinstance(pd.read_parquet("table.parquet"), pd.DataFrame)
    splits = open_source(compose(overrides).data).load()
    assert all(len(splits[name]) > 0 for name in ("train", "val", "test"))  # type: ignore[arg-type]


def test_strict_has_gates_for_every_task() -> None:
    gates = compose(["gates=strict"]).gates.values()
    for task in ("binary", "multiclass", "regression"):
        assert sum(gate.tasks is not None and task in gate.tasks for gate in gates) >= 1


def test_options_that_extend_another_only_say_what_differs() -> None:
    debug, default = compose(["trainer=debug"]).trainer, compose().trainer
    differing = {name for name in TrainerConfig.model_fields if getattr(debug, name) != getattr(default, name)}
    assert differing == {"epochs", "early_stopping"}


def test_every_default_stands_in_yaml_and_not_in_the_schema() -> None:
    for model in (ExperimentConfig, DataConfig, TrainerConfig, *COMMANDS.values()):
        with_default = [name for name, field in model.model_fields.items() if not field.is_required()]
        assert not with_default


def test_every_field_has_a_line_of_documentation() -> None:
    def undocumented(model: type, prefix: str = "") -> list[str]:
        missing = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                missing += undocumented(inner, f"{prefix}{name}.")
            elif not field.description:
                missing.append(prefix + name)
        return missing

    assert undocumented(ExperimentConfig) == []


def test_an_image_model_on_a_table_says_what_it_needs() -> None:
    from mlops_hydra.config.objective import Objective
    from mlops_hydra.data.sources import open_source
    from mlops_hydra.training.build import build_workbench

    config = compose(["model=cnn"])
    splits = open_source(config.data).load()
    with pytest.raises(ConfigError, match=r"data\.image_shape"):
        build_workbench(config, splits, Objective("log_loss", "minimize"), torch.device("cpu"))
