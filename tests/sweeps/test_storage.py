"""A contract that every kind of store keeps, then what is particular to each."""

import itertools
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy

from mlops_hydra.errors import ConfigError, TrackingError, UsageError
from mlops_hydra.sweeps.storage import anchored, check_store, close_storage, open_storage, store_path, study_lock, told

Opened = Callable[[str], Any]

FORKS = """
import os, sys, traceback
import alembic.migration, filelock, optuna.storages.journal, optuna.study, sqlalchemy.orm
from mlops_hydra.sweeps.storage import close_storage, open_storage, study_lock
def in_forks(number, work):
    # so many processes that begin at the same time: imports, which take a second, are done once
    begin, go = os.pipe()
    children = []
    for _ in range(number):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                os.close(go)
                os.read(begin, 1)
                work(sys.argv[1])
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    os.close(go)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
CREATE = (
    FORKS
    + """
def create(url):
    storage = open_storage(url)
    with study_lock(url, storage):
        if not storage.get_all_studies():
            storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    study = storage.get_study_id_from_name("s")
    for _ in range(25):
        with study_lock(url, storage):
            if storage.get_n_trials(study) < 50:
                storage.create_new_trial(study)
in_forks(4, create)
"""
)
OPEN = FORKS + "in_forks(4, lambda url: close_storage(open_storage(url)))"
HOLD = (
    FORKS
    + """
storage = open_storage(sys.argv[1])
with study_lock(sys.argv[1], storage):
    print("held", flush=True)
    sys.stdin.read()
"""
)


def command(code: str, url: str) -> list[str]:
    return [sys.executable, "-c", code, url]


def run_well(code: str, url: str) -> None:
    done = subprocess.run(command(code, url), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def new_study(storage: Any, name: str = "s") -> optuna.Study:
    return optuna.create_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler(seed=0))


def run_trial(study: optuna.Study) -> None:
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0, 1))


@contextmanager
def held(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock of the study."""
    with subprocess.Popen(command(HOLD, url), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


# Every kind of store


def test_what_one_process_stores_another_reads(storage_url: str, opened: Opened):
    study = new_study(opened(storage_url))
    for _ in range(3):
        run_trial(study)
    read = optuna.load_study(study_name="s", storage=opened(storage_url))
    assert [trial.value for trial in read.trials] == [trial.value for trial in study.trials]
    assert [trial.number for trial in read.trials] == [0, 1, 2]


def test_a_store_that_was_pickled_keeps_its_settings(storage_url: str, opened: Opened):
    run_trial(new_study(opened(storage_url)))
    storage = pickle.loads(pickle.dumps(opened(storage_url)))
    run_trial(optuna.load_study(study_name="s", storage=storage))
    if storage_url.startswith("sqlite"):
        with closing(storage.engine.raw_connection()) as connection:
            assert settings(connection) == ("wal", 1, 60_000)
    close_storage(storage)
    assert len(optuna.load_study(study_name="s", storage=opened(storage_url)).trials) == 2


def test_processes_that_count_and_create_under_the_lock_never_create_too_many(storage_url: str, opened: Opened):
    run_well(CREATE, storage_url)
    storage = opened(storage_url)
    trials = storage.get_all_trials(storage.get_study_id_from_name("s"))
    assert [trial.number for trial in trials] == list(range(50))


def test_threads_exclude_each_other_without_using_up_the_connections(storage_url: str, opened: Opened):
    storage = opened(storage_url)
    study = new_study(storage)._study_id

    def create() -> None:
        for _ in range(2):
            with study_lock(storage_url, storage):
                if storage.get_n_trials(study) < 30:
                    storage.create_new_trial(study)

    threads = [threading.Thread(target=create) for _ in range(20)]  # more than the 15 connections of a pool
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get_n_trials(study) == 30


def test_a_killed_holder_frees_the_lock(storage_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch):
    storage = opened(storage_url)
    with held(storage_url) as process:
        with monkeypatch.context() as patch, pytest.raises(TrackingError, match="keeps the study locked"):
            patch.setattr("mlops_hydra.sweeps.storage.LOCK_SECONDS", 0.1)
            with study_lock(storage_url, storage):
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with study_lock(storage_url, storage):
            new_study(storage)


def test_a_lock_that_another_thread_keeps_is_told(storage_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch):
    storage = opened(storage_url)
    monkeypatch.setattr("mlops_hydra.sweeps.storage.LOCK_SECONDS", 0.05)
    with (
        study_lock(storage_url, storage),
        pytest.raises(TrackingError, match="another thread") as caught,
        study_lock(storage_url, storage),
    ):
        pass
    assert "sesame" not in str(caught.value)


def test_the_lock_is_free_after_an_error_inside_which_passes_unchanged(storage_url: str, opened: Opened):
    storage = opened(storage_url)
    for error in (KeyError("x"), OSError("y"), KeyboardInterrupt(), UsageError("z")):
        with pytest.raises(type(error)) as caught, told(storage_url), study_lock(storage_url, storage):
            raise error
        assert caught.value is error
    with study_lock(storage_url, storage):
        pass


def test_the_lock_of_a_study_is_that_of_its_store(storage_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch):
    study = new_study(opened(storage_url))
    monkeypatch.setattr("mlops_hydra.sweeps.storage.LOCK_SECONDS", 0.05)
    with (
        study_lock(storage_url, study._storage),
        pytest.raises(TrackingError),
        study_lock(storage_url, opened(storage_url)),
    ):
        pass


def test_processes_that_start_at_once_create_one_store(storage_url: str, opened: Opened):
    run_well(OPEN, storage_url)
    run_trial(new_study(opened(storage_url)))


def test_what_optuna_says_of_studies_and_trials_passes_unchanged(storage_url: str, opened: Opened):
    study = new_study(opened(storage_url))
    with pytest.raises(optuna.exceptions.DuplicatedStudyError), told(storage_url):
        new_study(opened(storage_url))
    with pytest.raises(KeyError), told(storage_url):
        optuna.load_study(study_name="unknown", storage=opened(storage_url))
    run_trial(study)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError), told(storage_url):
        study._storage.set_trial_user_attr(0 if "journal" in storage_url else 1, "a", 1)
    with pytest.raises(TypeError), told(storage_url):
        study.set_user_attr("a", object())


# What is no store


@pytest.mark.parametrize(
    "url",
    [
        *("", "study.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"),
        *("journal://", "journal:///", "redis://host", "http://host", "postgresql:", "postgresql://"),
    ],
)
def test_anything_else_is_refused_with_the_kinds_that_there_are(url: str):
    with pytest.raises(ConfigError, match=r"sweeps\.storage: must be sqlite:///FILE, postgresql://.* journal:///FILE"):
        open_storage(url)


@pytest.mark.parametrize("url", ["postgresql://h:port/db", "postgresql+nodriver://h/db", "mysql+nodriver://h/db"])
def test_an_address_that_makes_no_sense_is_refused_at_once(url: str):
    with pytest.raises(ConfigError, match=r"sweeps\.storage: is no address of a database"):
        open_storage(url)


def test_a_missing_driver_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'mlops-hydra[postgres]'")) as caught:
        open_storage("postgresql://me:secret@host/db?password=sesame")
    assert "secret" not in str(caught.value) and "sesame" not in str(caught.value)


def test_a_missing_driver_of_another_server_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigError, match=r"driver is not installed .*pymysql"):
        open_storage("mysql+pymysql://me:secret@host/db")


def test_only_files_have_a_path():
    assert store_path("sqlite:///a/b.db") == Path("a/b.db")
    assert store_path("journal:////a/b.log") == Path("/a/b.log")
    assert store_path("postgresql://host/db") is None


def test_a_relative_path_is_bound_to_the_directory_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert anchored("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert anchored("journal:///b.log") == f"journal:///{tmp_path}/b.log"
    assert anchored("postgresql://host/db") == "postgresql://host/db"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_store_stays_where_it_was_opened(kind: str, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    storage = opened(f"{kind}:///in/a/folder.x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    new_study(storage)
    assert list(Path().iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert optuna.get_all_study_names(opened(f"{kind}:///in/a/folder.x")) == ["s"]


# SQLite


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """A store with some trials, closed."""
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    study = new_study(storage)._study_id
    for _ in range(50):
        storage.create_new_trial(study)
    close_storage(storage)
    return tmp_path / "s.db"


def always(storage: Any, statement: str) -> None:
    """Have each connection to a store say this first."""
    sqlalchemy.event.listen(storage.engine, "checkout", lambda connection, *_: connection.execute(statement))


def settings(connection: Any) -> tuple[Any, ...]:
    names = ("journal_mode", "synchronous", "busy_timeout")
    return tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)


def test_each_connection_is_in_wal_mode_and_waits_for_others(tmp_path: Path, opened: Opened):
    engine = opened(f"sqlite:///{tmp_path}/s.db").engine
    connections = [engine.raw_connection() for _ in range(3)]  # the first is that which made the tables
    assert [settings(connection.cursor()) for connection in connections] == [("wal", 1, 60_000)] * 3
    for connection in connections:
        connection.close()


def test_a_store_that_optuna_made_without_us_is_taken_over(tmp_path: Path, opened: Opened):
    url = f"sqlite:///{tmp_path}/s.db"
    made = optuna.storages.RDBStorage(url)
    run_trial(new_study(made))
    made.engine.dispose()
    storage = opened(url)
    assert len(optuna.load_study(study_name="s", storage=storage).trials) == 1
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        assert settings(connection)[0] == "wal"


def test_a_store_from_another_version_of_optuna_is_told(sqlite_file: Path):
    with closing(sqlite3.connect(sqlite_file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(TrackingError, match=r"s\.db: its tables are from another version of Optuna .*upgrade"):
        open_storage(f"sqlite:///{sqlite_file}")


def test_a_file_that_is_no_database_is_told_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "s.db"
    path.write_text("trial,loss\n" * 500, encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(TrackingError, match=r"s\.db: the file is damaged, or no SQLite database; .*not a database"):
        open_storage(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize("check", [open_storage, check_store])
def test_a_damaged_page_is_told_before_anything_is_written(sqlite_file: Path, check: Callable[[str], Any]):
    data = bytearray(sqlite_file.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    data[8 * page : 40 * page] = os.urandom(32 * page)
    sqlite_file.write_bytes(data)
    with pytest.raises(TrackingError, match=r"s\.db: the file is damaged.*malformed"):
        check(f"sqlite:///{sqlite_file}")
    assert sqlite_file.read_bytes() == bytes(data)


def test_the_log_that_a_crash_left_is_not_folded_into_a_damaged_file(sqlite_file: Path, tmp_path: Path, opened: Opened):
    new_study(opened(f"sqlite:///{sqlite_file}"), "another")
    left = tmp_path / "left.db"
    shutil.copy(f"{sqlite_file}-wal", f"{left}-wal")
    data = bytearray(sqlite_file.read_bytes())
    data[8 * 4096 : 40 * 4096] = os.urandom(32 * 4096)
    left.write_bytes(data)
    assert Path(f"{left}-wal").stat().st_size > 0
    with pytest.raises(TrackingError, match=r"left\.db: the file is damaged.*malformed"):
        open_storage(f"sqlite:///{left}")
    assert left.read_bytes() == bytes(data)
    assert Path(f"{left}-wal").read_bytes() == Path(f"{sqlite_file}-wal").read_bytes()


def test_damage_that_is_met_later_is_told(sqlite_file: Path, opened: Opened):
    url = f"sqlite:///{sqlite_file}"
    storage = opened(url)
    storage.engine.dispose()
    data = bytearray(sqlite_file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    sqlite_file.write_bytes(data)
    with pytest.raises(TrackingError, match=r"the file is damaged.*malformed"), told(url):
        new_study(storage, "another")
    assert sqlite_file.read_bytes() == bytes(data)


def test_a_file_cut_short_is_told_and_left_as_it_is(sqlite_file: Path):
    os.truncate(sqlite_file, 3 * 4096 + 100)
    before = sqlite_file.read_bytes()
    with pytest.raises(TrackingError, match=r"s\.db: the file is damaged"):
        open_storage(f"sqlite:///{sqlite_file}")
    assert sqlite_file.read_bytes() == before


def test_a_store_that_another_program_keeps_locked_is_told(sqlite_file: Path, opened, monkeypatch):
    monkeypatch.setattr("mlops_hydra.sweeps.storage.LOCK_SECONDS", 0.05)
    url = f"sqlite:///{sqlite_file}"
    storage, before = opened(url), sqlite_file.read_bytes()
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(TrackingError, match=r"s\.db: another process keeps it locked.*database is locked"),
            told(url),
        ):
            new_study(storage, "another")
        assert sqlite_file.read_bytes() == before
    new_study(storage, "another")


def test_a_full_disk_is_told(sqlite_file: Path, opened: Opened):
    url = f"sqlite:///{sqlite_file}"
    storage = opened(url)
    always(storage, f"PRAGMA max_page_count = {sqlite_file.stat().st_size // 4096}")
    study = optuna.load_study(study_name="s", storage=storage)
    with pytest.raises(TrackingError, match=r"s\.db: the disk is full; make room.*disk is full"), told(url):
        for number in range(100):
            study.set_user_attr(f"a{number}", "x" * 2000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_folder_that_takes_nothing_is_told(kind: str, tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(TrackingError, match="it cannot be written"):
        open_storage(f"{kind}:///{tmp_path}/s.x")


def test_a_store_that_is_read_only_is_told(sqlite_file: Path, opened: Opened):
    url = f"sqlite:///{sqlite_file}"
    storage = opened(url)
    always(storage, "PRAGMA query_only = 1")
    with pytest.raises(TrackingError, match=r"s\.db: it cannot be written; .*readonly database"), told(url):
        new_study(storage, "another")


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_folder_in_the_place_of_the_file_is_told(kind: str, tmp_path: Path):
    with pytest.raises(TrackingError, match=re.escape(str(tmp_path))):
        open_storage(f"{kind}:///{tmp_path}")


# Journals

TORN = b'{"op_code":4,"worker'


@pytest.fixture
def journal(tmp_path: Path, opened: Opened) -> Path:
    """A journal with a study and two trials."""
    study = new_study(opened(f"journal:///{tmp_path}/j.log"))
    for _ in range(2):
        run_trial(study)
    return tmp_path / "j.log"


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_hydra.sweeps.storage.APPEND_SECONDS", 0.05)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("torn", [TORN, TORN * 1000, TORN + b"\n", b"\0" * 50, b'{"op_code":4,"w{"op_code":4}\n'])
def test_a_torn_last_line_is_told_with_the_command_that_cuts_it_off(journal: Path, opened: Opened, torn: bytes):
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    with pytest.raises(TrackingError, match=rf"incomplete \({len(torn)} bytes.*Nothing was written") as caught:
        open_storage(f"journal:///{journal}")
    assert journal.read_bytes() == whole + torn
    command = str(caught.value).rpartition(": ")[2]
    assert command == f"truncate -s {len(whole)} {journal}"
    if shutil.which("truncate"):
        subprocess.run(command, shell=True, check=True)
        assert journal.read_bytes() == whole
        assert len(optuna.load_study(study_name="s", storage=opened(f"journal:///{journal}")).trials) == 2


@pytest.mark.usefixtures("_impatient")
def test_a_journal_of_half_a_line_is_told(tmp_path: Path):
    (tmp_path / "j.log").write_bytes(TORN)
    with pytest.raises(TrackingError, match="truncate -s 0 "):
        check_store(f"journal:///{tmp_path}/j.log")


def test_a_line_that_somebody_is_writing_is_waited_for(journal: Path, monkeypatch: pytest.MonkeyPatch):
    line = journal.read_bytes().splitlines(keepends=True)[-1]
    with journal.open("ab") as file:
        file.write(line[:-5])

    def write_the_rest(_: float) -> None:
        with journal.open("ab") as file:
            file.write(line[-5:])

    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=write_the_rest)
    monkeypatch.setattr("mlops_hydra.sweeps.storage.time", clock)
    check_store(f"journal:///{journal}")


def test_an_open_store_appends_nothing_to_a_line_that_was_torn_since(journal: Path, opened: Opened):
    study = optuna.load_study(study_name="s", storage=opened(f"journal:///{journal}"))
    whole = journal.read_bytes()
    journal.write_bytes(whole + TORN)
    with pytest.raises(TrackingError, match="last line is incomplete"):
        study.ask()
    assert journal.read_bytes() == whole + TORN
    journal.write_bytes(whole)
    study.ask()  # the lock was let go


@pytest.mark.parametrize("line", [b"not JSON", b"[1]", b"{}", b'{"op_code":99}', b"\xff\xfe"])
def test_a_line_in_the_middle_that_cannot_be_read_is_told_by_its_number(journal: Path, line: bytes):
    lines = journal.read_bytes().splitlines()
    lines[2] = line
    journal.write_bytes(b"\n".join(lines) + b"\n")
    before = journal.read_bytes()
    where = "line 3 is no operation" if line != b"{}" and not line.startswith(b'{"') else "it is no journal"
    for attempt in (open_storage, lambda _: optuna.storages.JournalStorage(backend(journal))):
        with pytest.raises(TrackingError, match=rf"j\.log: cannot be read: {where}"), told(f"journal:///{journal}"):
            attempt(f"journal:///{journal}")
    assert journal.read_bytes() == before


def backend(path: Path) -> Any:
    return optuna.storages.journal.JournalFileBackend(str(path))


def test_the_lock_of_a_killed_writer_is_broken_also_with_a_relative_path(tmp_path, opened, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    study = new_study(opened("journal:///a/j.log"))
    (tmp_path / "a" / "j.log.lock").symlink_to(tmp_path / "a" / "j.log")
    seconds = itertools.count(0, 5)
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)
    monkeypatch.setattr("optuna.storages.journal._file.time", clock)
    run_trial(study)


def test_a_journal_that_was_deleted_is_told_and_not_begun_anew(journal: Path, opened: Opened):
    study = optuna.load_study(study_name="s", storage=opened(f"journal:///{journal}"))
    journal.unlink()
    with pytest.raises(TrackingError, match=r"j\.log: .*No such file"), told(f"journal:///{journal}"):
        study.ask()
    assert not journal.exists()


def test_a_journal_on_a_full_disk_is_told(journal: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch):
    study = optuna.load_study(study_name="s", storage=opened(f"journal:///{journal}"))

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optuna.storages.journal._file.os.fsync", refuse)
    with pytest.raises(TrackingError, match=r"j\.log: the disk is full"), told(f"journal:///{journal}"):
        study.ask()


# Servers


def test_the_driver_is_psycopg_3_unless_one_is_named(postgres_database: str, opened: Opened):
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        url = postgres_database.replace("postgresql", scheme, 1)
        assert opened(url).engine.url.drivername == "postgresql+psycopg"


def test_a_wrong_password_is_told_without_showing_any(postgres_database: str):
    with pytest.raises(TrackingError, match=r"the server refuses this user or password \(.*authentication") as caught:
        open_storage(postgres_database.replace("sesame", "open{sesame}"))
    assert "sesame" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_database_that_is_not_there_is_told(postgres_url: str):
    with pytest.raises(TrackingError, match=r"the server has no such database.*\"nowhere\" does not exist"):
        open_storage(postgres_url.replace("/postgres?", "/nowhere?"))


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(TrackingError, match=r"///?\*\*\*@127.0.0.1:9/db: the server is not reachable") as caught:
        open_storage("postgresql://me:secret@127.0.0.1:9/db")  # nothing listens on port 9 (discard)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_closed_idle_connections_is_connected_to_again(postgres_url: str, postgres_database: str, opened):
    import psycopg

    storage = opened(postgres_database)
    study = new_study(storage)
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(postgres_url) as connection:
        connection.execute(ending, [storage.engine.url.database])
    run_trial(study)
    with psycopg.connect(postgres_url) as connection:
        connection.execute(ending, [storage.engine.url.database])
    with study_lock(postgres_database, storage):
        pass


# What has nothing to do with the store


@pytest.mark.parametrize("error", [ValueError("x"), OSError(28, "No space left on device"), RuntimeError("y")])
def test_what_fails_elsewhere_passes_unchanged(error: Exception):
    with pytest.raises(type(error)) as caught, told("sqlite:///s.db"):
        raise error
    assert caught.value is error


def test_the_error_of_somebody_elses_database_passes_unchanged(tmp_path: Path):
    with (
        closing(sqlite3.connect(tmp_path / "x.db")) as connection,
        pytest.raises(sqlite3.OperationalError),
        told("sqlite:///s.db"),
    ):
        connection.execute("SELECT * FROM nowhere")
