"""The store that keeps a study: SQLite, a database server, or a journal file; opened, locked, and its errors told.

Nothing here knows what a trial means. A store that is damaged is reported and left as it is: nobody can repair what
another program wrote on top.
"""

import importlib
import json
import os
import re
import shlex
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from mlops_hydra.errors import ConfigError, Fault, MlopsHydraError, TrackingError
from mlops_hydra.tracking.store import redacted

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.storages.journal import JournalFileSymlinkLock
    from sqlalchemy import Engine
    from sqlalchemy.engine import Connection

FIELD: Final = "sweeps.storage"
LOCK_SECONDS: Final = 60  # longest wait for a lock, ours or the database's
CONNECT_SECONDS: Final = 10  # PostgreSQL's driver would wait 130 s for a host that does not answer
APPEND_SECONDS: Final = 1.0  # how long a last line may be incomplete because somebody is writing it
POLL_SECONDS: Final = 0.005
LOCK_KEY: Final = 0x6D6C6F7073  # "mlops": which advisory lock of a database is ours

_FILE: Final = re.compile(r"(?P<kind>sqlite|journal):///(?!:memory:|file:)(?P<path>[^?]+)")
_SERVER: Final = re.compile(r"(?P<kind>postgres|postgresql|mysql|mariadb)(?P<driver>\+\w+)?://.+")
_PASSWORD: Final = re.compile(r"(?<=[?&]password=)[^&\s]+")
_threads: Final[dict[tuple[int, str], threading.Lock]] = {}


def store_path(url: str) -> Path | None:
    """The file of a SQLite or journal store; None for a server."""
    found = _FILE.fullmatch(url)
    return Path(found["path"]) if found else None


def anchored(url: str) -> str:
    """`url` with the path of its file made absolute: a script may change its directory."""
    found = _FILE.fullmatch(url)
    return f"{found['kind']}:///{Path(found['path']).absolute()}" if found else url


def open_storage(url: str) -> "BaseStorage":
    """The store at `url`, created if there is none; processes that start together create one.

    Raises:
        ConfigError: not a kind of store, or its driver is not installed.
        TrackingError: damaged, locked, not reachable, or made by another version of Optuna.
    """
    path = store_path(url)
    if path is None:
        return _open_server(url)
    check_store(url)
    with _reported(url):
        path.parent.mkdir(parents=True, exist_ok=True)
    return _open_journal(url, path.absolute()) if url.startswith("journal") else _open_sqlite(url, path.absolute())


def close_storage(storage: "BaseStorage") -> None:
    """Close the connections to a database; the last one to leave a SQLite store folds its log into the file."""
    engine = _engine(storage)
    if engine is not None:
        engine.dispose()


def _engine(storage: "BaseStorage") -> "Engine | None":
    inner = getattr(storage, "_backend", storage)  # a study wraps its store into a cache
    return cast("Engine | None", getattr(inner, "engine", None))


# SQLite


def _open_sqlite(url: str, path: Path) -> "BaseStorage":
    with _file_lock(url, path), _reported(url):
        return _rdb(f"sqlite:///{path}", creator=partial(_connect, path))


def _connect(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode: ask, suggest and tell take 11 ms instead of 18.

    Passed as `creator`, which also holds for the first connection and after pickling, as an event would not. Without
    WAL (a network drive) the other settings stay as they are: less would lose data with the power.
    """
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False)
    try:
        if connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",):
            connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.OperationalError:
        pass  # locked, or read-only: the next statement waits for it or says it
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check_sqlite(path: Path) -> None:
    """Reads all pages but writes none, not even at the end: it is opened read-only."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.OperationalError:
            return  # locked, or a crash to recover from: that is for who opens it to write
        if found != "ok":
            raise sqlite3.DatabaseError(f"malformed: {found}")


# Servers


def _open_server(url: str) -> "BaseStorage":
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    address, options = _address(url)
    with _reported(url):
        try:
            engine = create_engine(address, poolclass=NullPool, connect_args=options)
        except ImportError as error:
            raise ConfigError(Fault(FIELD, f"the driver is not installed ({error})", _shown(url))) from error
        with _server_lock(url, engine):  # of several machines, one creates the tables
            return _rdb(address, connect_args=options, pool_pre_ping=True)  # idle for as long as a trial trains


def _address(url: str) -> tuple[str, dict[str, Any]]:
    """The URL as SQLAlchemy takes it, with a driver, and arguments for that driver."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    found = _SERVER.fullmatch(url)
    if found is None:
        rule = "must be sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE (or mysql://...) or journal:///FILE"
        raise ConfigError(Fault(FIELD, rule, _shown(url)))
    try:
        address = make_url(url)
        if found["kind"].startswith("postgres"):
            address = address.set(drivername=f"postgresql{found['driver'] or '+psycopg'}")
        address.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(Fault(FIELD, f"is no address of a database ({_line(error)})", _shown(url))) from error
    if address.drivername != "postgresql+psycopg":
        return address.render_as_string(hide_password=False), {}
    _require_psycopg(url)
    options = {} if "connect_timeout" in address.query else {"connect_timeout": CONNECT_SECONDS}
    return address.render_as_string(hide_password=False), options


def _require_psycopg(url: str) -> None:
    try:
        importlib.import_module("psycopg")
    except ImportError as error:
        rule = f"PostgreSQL needs a driver ({_line(error)}): pip install 'mlops-hydra[postgres]'"
        raise ConfigError(Fault(FIELD, rule, _shown(url))) from error


def _rdb(url: str, **engine_kwargs: Any) -> "RDBStorage":
    from optuna.storages import RDBStorage

    literal = url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    return RDBStorage(literal, engine_kwargs=engine_kwargs)


# Journals


def _open_journal(url: str, path: Path) -> "BaseStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    # Optuna's default lock, so that its own tools can write, too. With a relative path it would spin for ever on a
    # lock that a killed process left: the link would point nowhere.
    lock = cast("JournalFileSymlinkLock", _WholeLines(JournalFileSymlinkLock(str(path), grace_period=10), path))
    with _reported(url):
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


class _WholeLines:
    """A journal's lock that is not to be had while the last line is incomplete: an append would spoil the file."""

    def __init__(self, lock: "JournalFileSymlinkLock", path: Path) -> None:
        self._lock, self._path = lock, path

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _check_journal(self._path, patience_seconds=0)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def check_store(url: str) -> None:
    """See that the file of a store, where there is one, is whole; it is only read.

    Raises:
        TrackingError: the last line of a journal is incomplete, or a SQLite file is damaged.
    """
    path = store_path(url)
    with _reported(url):
        if path is None or not path.exists():
            return
        if url.startswith("journal"):
            _check_journal(path, patience_seconds=APPEND_SECONDS)
        else:
            _check_sqlite(path)


def _check_journal(path: Path, *, patience_seconds: float) -> None:
    """Looks again for so long: another process may be in the midst of appending."""
    end = time.monotonic() + patience_seconds
    while (num_bytes := _incomplete_bytes(path)) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    if num_bytes:
        raise TrackingError(
            f"{path}: its last line is incomplete ({num_bytes} bytes, left by a crash or a full disk). Nothing was"
            f" written to it. This cuts the line off: truncate -s {path.stat().st_size - num_bytes}"
            f" {shlex.quote(str(path))}"
        )


def _incomplete_bytes(path: Path) -> int:
    """Bytes of the last line if it is no whole line of JSON; Optuna would skip it, and fail after the next append."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        num_bytes, line = 0, b""
        while num_bytes < size and line.count(b"\n", 0, -1) == 0:
            num_bytes = min(size, max(4096, 2 * num_bytes))
            file.seek(size - num_bytes)
            line = file.read(num_bytes)
    line = line[line.rfind(b"\n", 0, -1) + 1 :]
    return 0 if not line or (line.endswith(b"\n") and _is_json(line)) else len(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


# The lock


def study_lock(url: str, storage: "BaseStorage") -> AbstractContextManager[None]:
    """Exclusive among all threads, processes and machines that use this store; a holder that dies lets go of it.

    Not to be entered twice, and no store may be opened inside. Waits for `LOCK_SECONDS`.

    Raises:
        TrackingError: somebody else holds it, or the server is not reachable.
    """
    engine = _engine(storage)
    if engine is not None and engine.dialect.name != "sqlite":
        return _server_lock(url, engine)
    path = engine.url.database if engine is not None else store_path(url)
    assert path is not None, url  # of a SQLite store in memory, which is never opened
    return _file_lock(url, Path(path).absolute())


@contextmanager
def _thread_lock(url: str) -> Iterator[None]:
    """Within a process first: waiting threads would use up the connections that the holder needs."""
    lock = _threads.setdefault((os.getpid(), url), threading.Lock())  # a fork must not inherit a held one
    if not lock.acquire(timeout=LOCK_SECONDS):
        raise TrackingError(f"{_shown(url)}: another thread has locked it for {LOCK_SECONDS} s")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _file_lock(url: str, path: Path) -> Iterator[None]:
    """A file beside the store; `.lock` alone is what Optuna calls that of a journal."""
    from filelock import FileLock

    lock = FileLock(f"{path}.study.lock", timeout=LOCK_SECONDS, poll_interval=POLL_SECONDS)
    with _thread_lock(str(path)):
        with _reported(url):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextmanager
def _server_lock(url: str, engine: "Engine") -> Iterator[None]:
    with _thread_lock(url):
        with _reported(url):
            connection = engine.connect()
        try:
            with _reported(url):
                _take(connection, url)
            yield
        finally:
            _let_go(connection)


def _take(connection: "Connection", url: str) -> None:
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":  # ends with the transaction, so a pooler between is no problem
        connection.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_KEY})"))
    elif connection.scalar(text(f"SELECT GET_LOCK(CONCAT('mlops-hydra ', DATABASE()), {LOCK_SECONDS})")) != 1:
        raise TrackingError(f"{_shown(url)}: another process has held the lock of the study for {LOCK_SECONDS} s")


def _let_go(connection: "Connection") -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if connection.dialect.name != "postgresql":
            connection.execute(text("SELECT RELEASE_LOCK(CONCAT('mlops-hydra ', DATABASE()))"))
    except SQLAlchemyError:
        connection.invalidate()  # whatever it holds ends with it
    finally:
        connection.close()


# What went wrong

_TELLING: Final = (
    (r"database (table )?is locked", "another process keeps it locked; end that process, or use a database server"),
    (r"malformed|not a database", "the file is damaged, or no SQLite database; restore a copy or name another file"),
    (r"readonly database|unable to open|ermission denied|Read-only", "it cannot be written; look at the permissions"),
    (r"disk is full|No space left|quota", "the disk is full; make room and start again"),
    (r"lock timeout|could not be acquired", "another process keeps the study locked; is it stopped? Its end frees it"),
    (r"authentication failed|no password supplied|Access denied", "the server refuses this user or password"),
    (r"database .* does not exist|Unknown database", "the server has no such database; create it there"),
    (r"too many", "the server has no connection left; start fewer processes at once, or raise its max_connections"),
    (r"no longer compatible", "its tables are from another version of Optuna"),
    (r"connect|server closed|timeout expired|resolve host|SSL", "the server is not reachable; is it running?"),
)  # fmt: skip


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turns what Optuna's store raises inside into one line that says which store, what, and what to do.

    Raises:
        TrackingError: the store failed. Errors from elsewhere, and Optuna's about studies and trials, pass unchanged.
    """
    try:
        yield
    except MlopsHydraError:
        raise
    except Exception as error:
        if not is_stores(error):
            raise
        raise TrackingError(_explanation(error, url)) from error


@contextmanager
def _reported(url: str) -> Iterator[None]:
    """As `told`, where all that can fail inside is the store."""
    try:
        yield
    except MlopsHydraError:
        raise
    except Exception as error:
        raise TrackingError(_explanation(error, url)) from error


def is_stores(error: Exception) -> bool:
    """Whether a store failed, rather than what called it: by type, and by the code that it came through."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    through = {
        frame.f_code.co_name for frame in frames if frame.f_globals.get("__name__", "").startswith("optuna.storages")
    }
    if isinstance(error, ValueError):
        return "read_logs" in through  # a line of a journal
    if isinstance(error, KeyError | TypeError | AssertionError):
        return frames[-1].f_code.co_name == "apply_logs" and bool(through)  # JSON, but no operation
    if type(error) is RuntimeError:
        return "check_table_schema_compatibility" in through
    return bool(through) and isinstance(error, StorageInternalError | DBAPIError | sqlite3.Error | OSError)


def _explanation(error: Exception, url: str) -> str:
    path = store_path(url)
    if path is not None and url.startswith("journal") and not isinstance(error, OSError):
        return f"{path}: cannot be read: {_broken_line(path)}; restore a copy or name another file"
    detail = _line(error).replace("$STORAGE_URL", _shown(url))
    advice = next((said for pattern, said in _TELLING if re.search(pattern, detail)), "the store failed")
    return f"{_shown(url)}: {advice} ({detail})"


def _line(error: BaseException) -> str:
    """What the database said, without the frames of SQLAlchemy and Optuna around it, in one line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return re.sub(r"\s+", " ", redacted(str(cause))).strip().rstrip(".") or type(cause).__name__


def _broken_line(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not (_is_json(line) and isinstance(json.loads(line), dict)):
                return f"line {number} is no operation of a journal"
    return "it is no journal of Optuna's"


def _shown(url: str) -> str:
    return _PASSWORD.sub("***", redacted(url))
