"""What README.md and docs/ say of drift is so: commands, settings, the code, the names in MLflow."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.drift import DriftConfig, default_rules
from mlops_hydra.config.roots import Roots

ROOT = Path(__file__).resolve().parent.parent
DRIFT = (ROOT / "docs" / "drift.md").read_text(encoding="utf-8")
TEXTS = [DRIFT, *((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/serving.md"))]


def commands() -> list[str]:
    found = {line for text in TEXTS for line in re.findall(r"mlops-hydra drift ([^\n`]*=[^\n`]*)", text)}
    return sorted(line.replace("since=...", "since=2026-11-25") for line in found)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str) -> None:
    model, *overrides = shlex.split(command)
    assert model == "credit@champion"
    assert compose_command(DriftConfig, overrides, Roots(config_name="drift")).current is not None


def test_there_are_commands() -> None:
    assert len(commands()) >= 3


def test_limits_are_those_of_the_configuration() -> None:
    limits = {name: float(value) for name, value in re.findall(r"`min_effect\.(\w+): ([\d.]+)`", DRIFT)}
    assert limits == default_rules().min_effect.model_dump()
    assert re.search(r"`\+monitoring\.by_column\.age=0\.2`", DRIFT)
    asked = compose_command(DriftConfig, ["+monitoring.by_column.age=0.2"], Roots(config_name="drift"))
    assert asked.monitoring.by_column == {"age": 0.2}


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DRIFT, flags=re.DOTALL)
    rng = np.random.default_rng(0)
    frames = {
        name: pd.DataFrame({"age": rng.normal(mean, 1, 500)})
        for name, mean in (("reference_frame", 0), ("current_frame", 1))
    }
    exec(compile(block, "docs/drift.md", "exec"), frames)
    assert re.match(r"age 0\.\d+ \S+ True median ", capsys.readouterr().out)


def test_metrics_in_mlflow_are_named() -> None:
    source = (ROOT / "mlops_hydra" / "drift.py").read_text(encoding="utf-8")
    assert set(re.findall(r"`(drift/\w+)`", DRIFT)) == set(re.findall(r'"(drift/\w+)"', source))
