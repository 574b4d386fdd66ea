"""One run that is trained once, and a copy of all it left for each test."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

QUICK = ["model=linear", "trainer=debug", "progress=off"]


@pytest.fixture(scope="module")
def trained_once(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that holds `outputs`."""
    from mlops_hydra import compose, run

    place, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
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
    shutil.copytree(trained_once / "outputs", tmp_path / "outputs")
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
