"""A place to work in, and one empty MLflow store that is made once and copied."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
QUICK = ["model=linear", "trainer=debug", "progress=off"]


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


@pytest.fixture(scope="session")
def known_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exported architectures are kept for all tests: one takes seconds."""
    path = tmp_path_factory.getbasetemp().parent / "graphs"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path, known_graphs: Path) -> Path:
    """An empty current directory whose `outputs` has a store already, and knows the architectures of other tests."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    (tmp_path / "outputs" / "graphs").symlink_to(known_graphs)
    return tmp_path


@pytest.fixture(scope="module")
def trained_once(empty_store: Path, known_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that holds `outputs`, with one run that is trained once."""
    from mlops_hydra import compose, run

    place, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    os.chdir(place)
    try:
        assert run(compose(QUICK)).status == "new"
    finally:
        os.chdir(before)
    yield place


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run below the current directory; MLflow's artifacts are a copy, too."""
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    _artifact_repos_cache.clear()  # MLflow remembers by a run's id where its artifacts are
    shutil.copytree(trained_once / "outputs", tmp_path / "outputs", symlinks=True)
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            paths = (str(trained_once), str(tmp_path))
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", paths)
    database.close()
    for path in (tmp_path / "outputs" / "runs").rglob("delivery.json"):
        path.write_text(path.read_text().replace(str(trained_once), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    (folder,) = (path.parent for path in (tmp_path / "outputs" / "runs").glob("*/*/spool.jsonl"))
    return folder
