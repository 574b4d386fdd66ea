"""What MLflow has, found fast, and without leaving a trace."""

import http.server
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.lookup import run_in_mlflow, runs_in_mlflow
from mlops_hydra.tracking.store import open_client

NUM_RUNS = 10_000


def insert_runs(path: Path, rows: Iterator[tuple[str, int, str, int, dict[str, str]]]) -> None:
    """Rows of (id, experiment, status, start in ms, tags), past MLflow, which would take minutes."""
    with sqlite3.connect(path) as database:
        for run_id, experiment, status, start, tags in rows:
            database.execute(
                "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri,"
                " experiment_id, source_type, user_id) VALUES (?, ?, ?, ?, ?, 'active', '', ?, 'LOCAL', 'me')",
                (run_id, tags["fingerprint"], status, start, start + 1000, experiment),
            )
            database.executemany(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                [(key, value, run_id) for key, value in tags.items()],
            )
    database.close()


def tags_of(fingerprint: str, lineage: str = "c" * 12) -> dict[str, str]:
    parts = {f"lineage.{part}": part for part in ("config", "data", "code")}
    return {"fingerprint": fingerprint, "lineage": lineage, "verdict": "passed", **parts}


def many_runs() -> Iterator[tuple[str, int, str, int, dict[str, str]]]:
    for number in range(NUM_RUNS):
        tags = tags_of(f"{number // 2:012d}", f"{number:012x}") | {f"tag{i}": "x" * 50 for i in range(30)}
        yield f"{number:032x}", 0, "FINISHED", number, tags


@pytest.fixture(scope="module")
def large_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """10,000 runs with 35 tags each, two of every fingerprint."""
    path = tmp_path_factory.mktemp("large") / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    insert_runs(path, many_runs())
    return f"sqlite:///{path}"


def test_a_run_is_found_among_ten_thousand(large_store: str, record_property):
    """Times are printed, not judged."""
    open_client(large_store).search_experiments(max_results=1)  # the import of MLflow is not what is measured
    times = {}
    for name, fingerprint, count in (("present", "000000001234", 2), ("absent", "abcdefabcdef", 0)):
        started = time.perf_counter()
        found = runs_in_mlflow(large_store, fingerprint, timeout_seconds=30)
        times[name] = time.perf_counter() - started
        assert len(found) == count
    started = time.perf_counter()
    assert len(runs_in_mlflow(large_store, f"{99:012x}", tag="lineage", timeout_seconds=30)) == 1
    times["lineage"] = time.perf_counter() - started
    print({name: f"{seconds * 1000:.1f} ms" for name, seconds in times.items()})
    newest, older = runs_in_mlflow(large_store, "000000001234", timeout_seconds=30)
    assert (newest.run_id, older.run_id) == (f"{2469:032x}", f"{2468:032x}")
    assert (newest.state, newest.name, newest.fingerprint, newest.folder) == (
        "finished",
        "Default",
        "000000001234",
        None,
    )
    assert (newest.began, newest.time) == (2.469, 3.469)


def test_a_run_is_found_by_its_own_id(large_store: str):
    run = run_in_mlflow(large_store, f"{77:032x}", timeout_seconds=30)
    assert run is not None and run.fingerprint == f"{38:012d}"
    assert run_in_mlflow(large_store, "f" * 32, timeout_seconds=30) is None


def test_a_fingerprint_that_reads_as_a_number_is_text(local_store: str):
    path = Path(local_store.removeprefix("sqlite:///"))
    names = ("1234567e8901", "000000000000", "123456789012", "0x1234567890")
    insert_runs(path, ((f"{i:032x}", 0, "FINISHED", i, tags_of(name)) for i, name in enumerate(names)))
    for number, name in enumerate(names):
        (run,) = runs_in_mlflow(local_store, name, timeout_seconds=30)
        assert run.run_id == f"{number:032x}"


def test_more_experiments_than_a_page_holds_are_searched(local_store: str):
    path = Path(local_store.removeprefix("sqlite:///"))
    with sqlite3.connect(path) as database:
        database.executemany(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,"
            " last_update_time) VALUES (?, ?, '', 'active', ?, ?)",
            [(number, f"e{number}", number, number) for number in range(1, 1202)],
        )
    database.close()
    places = (1, 600, 1201)
    insert_runs(path, ((f"{i:032x}", i, "FINISHED", i, tags_of("a" * 12)) for i in places))
    found = runs_in_mlflow(local_store, "a" * 12, timeout_seconds=30)
    assert [run.name for run in found] == ["e1201", "e600", "e1"]


def test_deleted_runs_and_those_without_a_result_are_left_out(local_store: str):
    path = Path(local_store.removeprefix("sqlite:///"))
    script = tags_of("a" * 12)
    del script["verdict"]
    rows = [("1" * 32, 0, "FINISHED", 1, tags_of("a" * 12)), ("2" * 32, 0, "FINISHED", 2, script)]
    rows += [("3" * 32, 0, "RUNNING", 3, script), ("4" * 32, 0, "FINISHED", 4, tags_of("a" * 12))]
    insert_runs(path, iter(rows))
    open_client(local_store).delete_run("4" * 32)
    found = runs_in_mlflow(local_store, "a" * 12, timeout_seconds=30)
    assert [(run.run_id[0], run.state) for run in found] == [("3", "running"), ("1", "finished")]


def test_looking_makes_no_store_and_leaves_one_as_it_is(tmp_path: Path, local_store: str):
    missing = tmp_path / "nowhere" / "mlflow.db"
    empty = tmp_path / "empty.db"
    empty.touch()
    for path in (missing, empty):
        assert runs_in_mlflow(f"sqlite:///{path}", "a" * 12, timeout_seconds=30) == []
        assert run_in_mlflow(f"sqlite:///{path}", "1" * 32, timeout_seconds=30) is None
    assert not missing.parent.exists() and empty.read_bytes() == b""
    store = Path(local_store.removeprefix("sqlite:///"))
    before = store.read_bytes()
    assert runs_in_mlflow(local_store, "a" * 12, timeout_seconds=30) == []
    assert run_in_mlflow(local_store, "1" * 32, timeout_seconds=30) is None
    assert store.read_bytes() == before
    assert [path.name for path in store.parent.iterdir()] == ["mlflow.db"]


def test_a_store_in_a_folder_with_strange_characters_is_asked(tmp_path: Path, empty_store: Path):
    path = tmp_path / "50% größer #1" / "mlflow.db"
    path.parent.mkdir()
    path.write_bytes(empty_store.read_bytes())
    insert_runs(path, iter([("1" * 32, 0, "FINISHED", 1, tags_of("a" * 12))]))
    assert len(runs_in_mlflow(f"sqlite:///{path}", "a" * 12, timeout_seconds=30)) == 1


def test_an_error_of_the_store_is_one_line_without_credentials(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 0)  # else its lock is held for minutes, for all tests
    for uri in ("http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/nothing"):
        with pytest.raises(TrackingError) as caught:
            runs_in_mlflow(uri, "a" * 12, timeout_seconds=5)
        assert "cannot be asked" in str(caught.value) and "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts, and answers nothing before the test is over."""
    over = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(60)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_told(silent_server: str):
    import mlflow  # noqa: F401  # importing it is no part of the wait

    before = dict(os.environ)
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"no answer within 0\.3 s"):
        runs_in_mlflow(silent_server, "a" * 12, timeout_seconds=0.3)
    assert time.monotonic() - started < 10, "not the 247 s of MLflow"
    for thread in threading.enumerate():
        if thread.name == "mlflow-lookup":
            thread.join(10)
    assert dict(os.environ) == before
