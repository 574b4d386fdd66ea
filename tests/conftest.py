"""A place to work in, and one empty MLflow store that is made once and copied."""

import os
import shutil
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(autouse=True)
def _no_tracking_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell that runs the tests may name a server."""
    for name in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store without runs: it takes seconds to make."""
    from mlops_hydra.tracking.store import create_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    create_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """An empty current directory whose `outputs` has a store already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return tmp_path
