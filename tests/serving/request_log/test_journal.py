"""The journal: what is recorded is in a file, in whole lines and within bounds, whatever disk and process meet."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.errors import DataError
from mlops_hydra.serving.request_log.journal import Journal, ModelDescription, entry, hashed, read_or_create_key
from mlops_hydra.serving.request_log.segments import finished_segments

MODEL = ModelDescription("3", "abc123", "0123456789ab", "binary", (("age", "numeric"),))
OTHER = ModelDescription("4", "def456", "0123456789ab", "binary", (("age", "numeric"), ("city", "categorical")))
NEVER = 3600.0


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 1_764_072_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal_of(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Journal]]:
    """Makes journals whose thread sleeps: tests flush."""
    made: list[Journal] = []

    def make(folder: Path = tmp_path / "journal", **settings: Any) -> Journal:
        limits = {"flush_seconds": NEVER, "roll_seconds": 60, "max_pending_bytes": 2**20, "max_journal_bytes": 2**30}
        made.append(Journal(folder, clock=clock, **{**limits, **settings}))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def line_of(number: int, model: int = 0) -> bytes:
    return entry(
        model=model, time_us=1_764_072_000_000_000 + number, request_id=str(number), user_id=None, variant="control",
        assigned_by="request_id", rows=b'[{"age": 1}]', predictions=["yes"], confidences=[0.5],
    )  # fmt: skip


def lines_in(folder: Path) -> list[dict[str, Any]]:
    """Of all segments, oldest first; fails where one is torn."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".open", ".jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines(keepends=True)]


def ids_in(folder: Path) -> list[int]:
    return [int(line["id"]) for line in lines_in(folder) if "m" in line]


def test_a_line_says_all_of_a_request() -> None:
    line = entry(
        model=2, time_us=7, request_id="r", user_id="42", variant="treatment", assigned_by="user_id",
        rows=b'[{"age":1.50,\n "x":"a\\nb"}]', predictions=[True], confidences=[None],
    )  # fmt: skip
    assert line.startswith(b'{"m":2,')
    assert line.count(b"\n") == 1
    told = {"m": 2, "t": 7, "id": "r", "user": "42", "arm": "treatment", "by": "user_id"}
    assert json.loads(line) == {**told, "rows": [{"age": 1.5, "x": "a\nb"}], "p": [True], "c": [None]}


def test_nan_becomes_null() -> None:
    line = entry(
        model=0, time_us=7, request_id="r", user_id=None, variant="a", assigned_by="user_id",
        rows=b"[[1]]", predictions=[float("nan")], confidences=(float("inf"),),
    )  # fmt: skip
    assert (json.loads(line)["p"], json.loads(line)["c"]) == ([None], [None])


def test_each_segment_describes_its_models_before_their_first_use(
    journal_of: Callable[..., Journal], tmp_path: Path, clock: Clock
) -> None:
    journal = journal_of()
    first, second = journal.describe(MODEL), journal.describe(OTHER)
    assert (first, second, journal.describe(MODEL)) == (0, 1, 0)
    for number, model in enumerate((0, 0, 1, 0)):
        journal.record(model, line_of(number, model), 1)
        if number != 1:
            journal.flush()
    clock.now += 61
    journal.flush()
    journal.record(1, line_of(4, 1), 1)
    journal.close()
    old, new = (path.read_bytes().splitlines() for path in finished_segments(tmp_path / "journal"))
    firsts = [next(iter(json.loads(line))) for line in old]
    assert firsts == ["model", "m", "model", "m", "m", "m"]
    for lines, models in ((old, {0, 1}), (new, {1})):
        described: set[int] = set()
        for line in map(json.loads, lines):
            if "model" in line:
                described.add(line["model"])
            else:
                assert line["m"] in described
        assert described == models
    assert json.loads(new[0]) == {
        "model": 1, "version": "4", "fingerprint": "def456", "lineage": "0123456789ab",
        "features": [["age", "numeric"], ["city", "categorical"]], "task": "binary",
    }  # fmt: skip


def test_only_a_finished_segment_is_for_the_recorder(
    journal_of: Callable[..., Journal], tmp_path: Path, clock: Clock
) -> None:
    journal = journal_of()
    journal.describe(MODEL)
    journal.record(0, line_of(0), 1)
    journal.flush()
    assert finished_segments(tmp_path / "journal") == []
    clock.now += 59
    journal.flush()
    assert finished_segments(tmp_path / "journal") == []
    clock.now += 1
    journal.flush()
    (segment,) = finished_segments(tmp_path / "journal")
    assert segment.name.startswith(f"20251125T120000.250000-{os.getpid()}-")


def test_a_segment_is_finished_when_the_clock_is_set_back(
    journal_of: Callable[..., Journal], tmp_path: Path, clock: Clock
) -> None:
    journal = journal_of()
    journal.describe(MODEL)
    journal.record(0, line_of(0), 1)
    journal.flush()
    clock.now -= 5
    journal.flush()
    assert len(finished_segments(tmp_path / "journal")) == 1


def test_a_journal_without_requests_leaves_no_file(journal_of: Callable[..., Journal], tmp_path: Path) -> None:
    journal = journal_of()
    journal.describe(MODEL)
    journal.flush()
    journal.close()
    assert not (tmp_path / "journal").exists()


def test_nothing_is_lost_or_doubled_between_the_two_threads(tmp_path: Path) -> None:
    limits = {"roll_seconds": 0.02, "max_pending_bytes": 2**30, "max_journal_bytes": 2**30}
    journal = Journal(tmp_path, flush_seconds=0.001, **limits)  # type: ignore[arg-type]
    journal.describe(MODEL)
    for number in range(30_000):
        assert journal.record(0, line_of(number), 1)
    journal.close()
    assert ids_in(tmp_path) == list(range(30_000))
    assert (journal.rows_recorded, journal.rows_dropped, journal.error) == (30_000, 0, None)


def test_half_full_memory_is_written_early(tmp_path: Path) -> None:
    limits = {"roll_seconds": 60, "max_pending_bytes": 10_000, "max_journal_bytes": 2**30}
    journal = Journal(tmp_path, flush_seconds=NEVER, **limits)  # type: ignore[arg-type]
    journal.describe(MODEL)
    for number in range(20):
        assert journal.record(0, line_of(number), 1)
    deadline = time.monotonic() + 20
    while journal.rows_recorded == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert journal.rows_recorded > 10
    journal.close()


def test_a_folder_that_cannot_be_written_costs_rows_only_when_memory_is_full(
    journal_of: Callable[..., Journal], tmp_path: Path
) -> None:
    (tmp_path / "in the way").write_text("a file")
    journal = journal_of(tmp_path / "in the way", max_pending_bytes=10_000)
    journal.describe(MODEL)
    taken = [journal.record(0, line_of(number), 2) for number in range(100)]
    journal.flush()
    num_taken = sum(taken)
    assert 20 < num_taken < 60
    assert (journal.rows_recorded, journal.rows_dropped) == (0, 2 * (100 - num_taken))
    assert "in the way" in (journal.error or "")
    (tmp_path / "in the way").unlink()
    journal.flush()
    assert ids_in(tmp_path / "in the way") == list(range(num_taken))
    assert journal.error is None
    assert journal.record(0, line_of(100), 2)


def test_rows_that_cannot_be_written_at_the_end_are_counted(journal_of: Callable[..., Journal], tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("a file")
    journal = journal_of(tmp_path / "in the way")
    journal.describe(MODEL)
    journal.record(0, line_of(0), 3)
    journal.close()
    assert (journal.rows_recorded, journal.rows_dropped) == (0, 3)
    assert not journal.record(0, line_of(0), 3)
    assert journal.rows_dropped == 6


def test_a_folder_that_is_removed_is_made_again(journal_of: Callable[..., Journal], tmp_path: Path) -> None:
    journal = journal_of()
    journal.describe(MODEL)
    journal.record(0, line_of(0), 1)
    journal.flush()
    for path in (tmp_path / "journal").iterdir():
        path.unlink()
    (tmp_path / "journal").rmdir()
    journal.record(0, line_of(1), 1)
    journal.flush()
    assert "was removed" in (journal.error or "")
    journal.flush()
    assert ids_in(tmp_path / "journal") == [1]


def test_a_disk_that_hangs_holds_up_nobody_and_memory_stays_bounded(
    journal_of: Callable[..., Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, write = threading.Event(), os.writev

    def hanging(handle: int, lines: list[bytes]) -> int:
        assert answers.wait(30)
        return write(handle, lines)

    monkeypatch.setattr(os, "writev", hanging)
    journal = journal_of(max_pending_bytes=10_000)
    journal.describe(MODEL)
    num_taken = sum(journal.record(0, line_of(number), 1) for number in range(5_000))  # the thread wakes at half of it
    assert num_taken < 60
    assert journal.rows_dropped == 5_000 - num_taken
    answers.set()
    journal.close()
    assert ids_in(tmp_path / "journal") == list(range(num_taken))
    assert journal.rows_recorded == num_taken


def test_a_full_journal_is_an_error_until_the_recorder_has_made_room(
    journal_of: Callable[..., Journal], tmp_path: Path
) -> None:
    journal = journal_of(max_journal_bytes=1_000)
    journal.describe(MODEL)
    for number in range(20):
        journal.record(0, line_of(number), 1)
    journal.flush()
    journal.record(0, line_of(20), 1)
    journal.flush()
    assert "wait for the recorder" in (journal.error or "")
    assert ids_in(tmp_path / "journal") == list(range(20))
    (full,) = finished_segments(tmp_path / "journal")  # or it could never be converted
    full.unlink()
    journal.flush()
    assert journal.error is None
    assert ids_in(tmp_path / "journal") == [20]


def test_a_line_that_stays_torn_is_written_again_in_another_segment(
    journal_of: Callable[..., Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.writev

    def torn(handle: int, lines: list[bytes]) -> int:
        monkeypatch.setattr(os, "writev", write)
        return write(handle, [b"".join(lines)[:-100]])

    def refused(handle: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "writev", torn)
    monkeypatch.setattr(os, "ftruncate", refused)
    journal = journal_of()
    journal.describe(MODEL)
    for number in range(3):
        journal.record(0, line_of(number), 1)
    journal.flush()
    assert (journal.rows_recorded, journal.error is None) == (2, False)
    journal.flush()
    (torn_segment,) = finished_segments(tmp_path / "journal")
    assert not torn_segment.read_bytes().endswith(b"\n")
    torn_segment.write_bytes(torn_segment.read_bytes().rpartition(b"\n")[0] + b"\n")
    assert sorted(ids_in(tmp_path / "journal")) == [0, 1, 2]


FULL_DISK = """
import resource, signal, sys, json
from pathlib import Path
from mlops_hydra.serving.request_log.journal import Journal, ModelDescription, entry
limits = {'max_pending_bytes': 2**20, 'max_journal_bytes': 2**30}
journal = Journal(Path(sys.argv[1]), flush_seconds=3600, roll_seconds=60, **limits)
journal.describe(ModelDescription("3", "a", "b", "binary", (("age", "numeric"),)))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
for number in range(100):
    line = entry(model=0, time_us=1, request_id=str(number), user_id=None, variant="a", assigned_by="b",
        rows=b"[[" + b"1" * 300 + b"]]", predictions=["yes"], confidences=[0.5])
    journal.record(0, line, 1)
journal.flush()
first = [journal.rows_recorded, journal.error]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.flush()
print(json.dumps([*first, journal.rows_recorded, journal.error, journal.rows_dropped]))
journal.close()
"""


def test_a_disk_that_was_full_has_whole_lines_each_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    recorded, error, recorded_in_the_end, last_error, dropped = json.loads(done.stdout)
    assert 10 < recorded < 40
    assert "No space left" in error
    assert (recorded_in_the_end, last_error, dropped) == (100, None, 0)
    assert ids_in(tmp_path) == list(range(100))


KILLED = """
import sys
from pathlib import Path
from mlops_hydra.serving.request_log.journal import Journal, ModelDescription, entry
limits = {'max_pending_bytes': 2**30, 'max_journal_bytes': 2**40}
journal = Journal(Path(sys.argv[1]), flush_seconds=3600, roll_seconds=0.01, **limits)
journal.describe(ModelDescription("3", "a", "b", "binary", (("age", "numeric"),)))
number = 0
while True:
    for _ in range(50):
        line = entry(model=0, time_us=1, request_id=str(number), user_id=None, variant="a", assigned_by="b",
            rows=b"[[1]]", predictions=["yes"], confidences=[0.5])
        journal.record(0, line, 1)
        number += 1
    journal.flush()
    print(number, flush=True)
"""


def test_a_killed_process_loses_what_was_not_flushed_and_no_more(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = 0
        for text in process.stdout:
            told = int(text)
            if told >= 1_000:
                process.send_signal(signal.SIGKILL)
                break
        told = max([told, *(int(text) for text in process.stdout if text.endswith("\n"))])
    segments = finished_segments(tmp_path)  # its last one is taken over
    assert not list(tmp_path.glob("*.open"))
    ids = [
        int(json.loads(line)["id"])
        for segment in segments
        for line in segment.read_bytes().splitlines(keepends=True)
        if line.startswith(b'{"m":') and line.endswith(b"\n")
    ]
    assert ids == list(range(len(ids)))
    assert told <= len(ids) <= told + 50


def test_a_key_is_the_same_for_all_who_ask_at_once(tmp_path: Path) -> None:
    path, together = tmp_path / "new" / "hash.key", threading.Barrier(8)

    def ask(_: int) -> bytes:
        together.wait()
        return read_or_create_key(path)

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(ask, range(8)))
    assert keys == {path.read_bytes()}
    assert len(path.read_bytes()) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert read_or_create_key(path) in keys


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hash.key").write_bytes(b"short")
    with pytest.raises(DataError, match=r"hash\.key: must hold the 32 bytes of a key, got '5 bytes'"):
        read_or_create_key(tmp_path / "hash.key")


def test_a_hash_depends_on_value_and_key() -> None:
    one = hashed("anna", b"k" * 32)
    assert one == hashed("anna", b"k" * 32)
    assert len(one) == 32
    assert int(one, 16)
    assert len({one, hashed("Anna", b"k" * 32), hashed("anna", b"x" * 32), hashed("", b"k" * 32)}) == 4


def test_a_worker_needs_no_pyarrow_for_it() -> None:
    module = "mlops_hydra.serving.request_log.journal"
    script = f"import sys, {module}\nassert not {{'pyarrow', 'numpy', 'pandas'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
