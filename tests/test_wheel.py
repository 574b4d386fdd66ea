"""A user's own project: the built wheel, an empty directory, their model, their configuration, their table."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent

MODEL = """
import torch
from torch import nn


class MyNet(nn.Module):
    def __init__(self, in_features: int, out_features: int, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_features, width), nn.Tanh(), nn.Linear(width, out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, so that nothing else can slip in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("mlops_hydra", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has this wheel, and our dependencies, but not this checkout.

    A path in a .pth file is searched, but the .pth files in it are not read: the editable install stays invisible.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder / "bin"


def test_the_wheel_holds_the_code_the_plugin_and_every_yaml(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"mlops_hydra/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert "hydra_plugins/mlops_hydra/searchpath.py" in names
    assert not any(name.startswith(("tests/", "conf/", "outputs/")) for name in names)


def test_a_users_own_model_and_table_train_from_an_empty_directory(
    installed: Path, tmp_path: Path, empty_store: Path
) -> None:
    """One real process on a wheel that is built and installed first, 10-15 s together."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "models.py").write_text(MODEL)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: my_package.models.MyNet\nwidth: 16\n")
    frame = pd.DataFrame({"x": range(200), "y": [i % 7 for i in range(200)]})
    frame["label"] = frame["x"].gt(100).map({True: "late", False: "early"})
    frame.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    arguments = "--config-dir conf model=mine data=csv data.path=table.csv data.target=label trainer.epochs=20"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(installed / "mlops-hydra"), *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("outputs/runs/*/result.json")
    result = json.loads(path.read_text())
    assert result["metrics"]["test/accuracy"] > 0.8
    assert result["run_id"], "the run is in the local store"
    where = [str(installed / "python"), "-c", "import mlops_hydra; print(mlops_hydra.__file__)"]
    home = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert home.startswith(str(installed.parent)), "the wheel was used, not this checkout"
