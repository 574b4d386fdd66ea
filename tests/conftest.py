"""A place to work in, one empty MLflow store that is made once and copied, and a real MLflow server."""

import gc
import os
import pickle
import shutil
import socket
import sqlite3
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # ten more processes a server, which outlive it
settings.register_profile("unhurried", deadline=None)  # 200 ms of a clock tell of who else is at work
settings.load_profile("unhurried")
QUICK = ["model=linear", "trainer=debug", "progress=off"]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """What a file leaves for the others, imports above all, is not looked through at each collection: a million
    objects, which took a third of the time of tests/training. What is garbage by then is collected first.
    """
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _no_tracking_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell that runs the tests may name a server."""
    for name in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def composed() -> dict[Any, bytes]:
    """What was composed of the packaged options alone, pickled."""
    return {}


@pytest.fixture(autouse=True)
def _compose_once(request: pytest.FixtureRequest, composed: dict[Any, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra takes 0.1 s to compose, a quarter of the time of gates and sweeps; outside tests/config, whose subject it
    is, what the same overrides make of the packaged options is a copy of the first time.
    """
    if request.path.parent.name == "config":
        return
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import flag_override

    from mlops_hydra.config import compose
    from mlops_hydra.config.roots import packaged_conf

    really, own = compose._compose, f"file://{packaged_conf()}"

    def remembered(overrides: list[str], config_name: str) -> Any:
        path = [part.path for part in GlobalHydra.instance().config_loader().get_search_path().get_path()]
        if {part for part in path if part.startswith("file:")} != {own} or "hydra.searchpath" in " ".join(overrides):
            return really(overrides, config_name)
        key = (config_name, *overrides)
        if key not in composed:
            composed[key] = pickle.dumps(really(overrides, config_name))
        cfg = pickle.loads(composed[key])
        with flag_override(cfg, ["readonly", "struct"], False):
            cfg.hydra.runtime.cwd = str(Path.cwd())
        return cfg

    monkeypatch.setattr(compose, "_compose", remembered)


@pytest.fixture(scope="session")
def session_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session, for what its worker processes make once for all of them."""
    path = tmp_path_factory.getbasetemp()
    return path.parent if hasattr(request.config, "workerinput") else path


@pytest.fixture(scope="session")
def empty_store(session_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store without runs: it takes seconds to make."""
    folder = session_folder / "store"
    with FileLock(session_folder / "store.lock"):
        if not folder.exists():
            from mlops_hydra.tracking.store import create_store

            made = tmp_path_factory.mktemp("made")
            create_store(f"sqlite:///{made}/mlflow.db")
            made.rename(folder)
    _know_tables()
    return folder / "mlflow.db"


def _know_tables() -> None:
    """What making a store does besides, in the processes that did not: SQLAlchemy warns when it first sees MLflow's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
        from sqlalchemy.orm import configure_mappers

        configure_mappers()


@pytest.fixture(scope="session")
def known_graphs(session_folder: Path) -> Path:
    """Where exported architectures are kept for all tests: one takes seconds."""
    path = session_folder / "graphs"
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
def move_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`move_in(place)`: its `outputs` in an empty current directory; MLflow's artifacts are a copy, too."""
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    def copy(place: Path) -> None:
        _artifact_repos_cache.clear()  # MLflow remembers by a run's id where its artifacts are
        shutil.copytree(place / "outputs", tmp_path / "outputs", symlinks=True)
        with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as database:
            for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
                paths = (str(place), str(tmp_path))
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", paths)
        database.close()
        for path in (tmp_path / "outputs" / "runs").rglob("delivery.json"):
            path.write_text(path.read_text().replace(str(place), str(tmp_path)))
        monkeypatch.chdir(tmp_path)

    return copy


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, move_in: Callable[[Path], None]) -> Path:
    """The folder of a finished run below the current directory."""
    move_in(trained_once)
    (folder,) = (path.parent for path in (tmp_path / "outputs" / "runs").glob("*/*/spool.jsonl"))
    return folder


@pytest.fixture(scope="session")
def mlflow_server(request: pytest.FixtureRequest, empty_store: Path, session_folder: Path) -> str:
    """The URI of a real `mlflow server` on loopback, which keeps the artifacts. Takes 5-15 s to start, by whoever needs
    it first; all worker processes use it at once, so what a test records there has a name of its own.
    """
    folder = session_folder / "server"
    with FileLock(session_folder / "server.lock"):
        if not (folder / "uri").exists():
            folder.mkdir(exist_ok=True)
            shutil.copy(empty_store, folder / "server.db")
            is_worker = hasattr(request.config, "workerinput")
            uri = _serve(folder, until=os.getppid() if is_worker else os.getpid())
            (folder / "uri").write_text(uri)
    return (folder / "uri").read_text()


def _serve(folder: Path, until: int) -> str:
    """A server in a process group of its own, which outlives the worker that starts it, and ends with process `until`,
    however that ends.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/served"]
    guard = ["sh", "-c", f"while kill -0 {until}; do sleep 1; done; kill -9 0"]
    log = folder / "server.log"
    written = [(os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=written, setpgroup=0)
    os.posix_spawnp("sh", guard, os.environ, file_actions=written, setpgroup=pid)
    uri = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return uri
    pytest.fail(log.read_text())
