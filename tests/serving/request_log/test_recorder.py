"""From journal to Parquet: each row once, whole files, whatever a recorder dies of and whatever a line holds."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import DataError
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.request_log.journal import Journal, ModelDescription, entry, hashed
from mlops_hydra.serving.request_log.parts import merge
from mlops_hydra.serving.request_log.reader import read_requests
from mlops_hydra.serving.request_log.recorder import Recorder

NOON = 1_764_072_000  # 2025-11-25T12:00:00Z
FEATURES = (("age", "numeric"), ("member", "boolean"), ("city", "categorical"), ("since", "date"), ("name", "hashed"))
MODEL = ModelDescription("3", "abc123", "0123456789ab", "binary", FEATURES)
NARROW = ModelDescription("4", "def456", "ba9876543210", "regression", (("age", "numeric"), ("income", "numeric")))


class Place:
    """A journal, a recorder and what they have made, at a time that a test sets."""

    def __init__(self, path: Path) -> None:
        self.journal_dir, self.requests_dir = path / "journal", path / "requests"
        self.now = float(NOON)
        self.warnings: list[str] = []
        self.recorder = self.new_recorder()

    def new_recorder(self) -> Recorder:
        return Recorder(self.journal_dir, self.requests_dir, lambda: self.now, self.warnings.append)

    def write(self, *lines: bytes, models: tuple[ModelDescription, ...] = (MODEL,), end: bytes = b"") -> Path:
        """A finished segment."""
        self.journal_dir.mkdir(parents=True, exist_ok=True)
        path = (
            self.journal_dir
            / f"20251125T12{len(list(self.journal_dir.iterdir())):04}.000000-1-{os.urandom(2).hex()}.jsonl"
        )
        path.write_bytes(b"".join([*(model.line(number) for number, model in enumerate(models)), *lines]) + end)
        return path

    def rows(self) -> list[dict[str, Any]]:
        return [row for table in read_requests(self.requests_dir) for row in table.to_pylist()]

    def ids(self) -> list[str]:
        return sorted(row["request_id"] for row in self.rows())

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.requests_dir)) for path in self.requests_dir.rglob("*.parquet"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def line_of(rows: Any, *, number: int = 0, model: int = 0, at: float = NOON, p: Any = None, c: Any = None) -> bytes:
    raw = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    num_rows = 1 if isinstance(rows, bytes) else len(rows)
    return entry(
        model=model, time_us=int(at * 1e6), request_id=f"r{number}", user_id=f"{number}", variant="control",
        assigned_by="user_id", rows=raw, predictions=p or ["yes"] * num_rows, confidences=c or [0.5] * num_rows,
    )  # fmt: skip


ROW = {"age": 41, "member": True, "city": "Bonn", "since": "2020-01-31", "name": hashed("anna", b"k" * 32)}


def test_a_row_is_what_was_asked_and_answered(place: Place) -> None:
    place.write(line_of([{**ROW, "extra": [1]}, {"age": None}], number=42, at=NOON + 0.000123, p=["yes", 0]))
    assert place.recorder.step()
    first, second = place.rows()
    assert first == {
        "time": pa.scalar(NOON * 1_000_000 + 123, pa.timestamp("us", "UTC")).as_py(),
        "request_id": "r42", "row": 0, "user_id": "42", "variant": "control", "assigned_by": "user_id",
        "model_version": "3", "fingerprint": "abc123", "lineage": "0123456789ab", "prediction": "yes", "value": None,
        "confidence": 0.5, "features.age": 41.0, "features.member": True, "features.city": "Bonn",
        "features.since": "2020-01-31", "features.name": hashed("anna", b"k" * 32),
    }  # fmt: skip
    assert (second["row"], second["prediction"]) == (1, "0")
    assert [second[f"features.{name}"] for name, _ in FEATURES] == [None] * 5
    assert place.files() == [f"2025-11-25T12.parts/{next(iter(place.files())).split('/')[1]}"]
    assert list(place.journal_dir.iterdir()) == []


def test_rows_may_be_lists_objects_and_both(place: Place) -> None:
    values = list(ROW.values())
    place.write(*(line_of(rows, number=i) for i, rows in enumerate([[values], [ROW], [values], [ROW, values[:1]]])))
    place.recorder.step()
    features = [[row[f"features.{name}"] for name, _ in FEATURES] for row in place.rows()]
    assert features == [[41.0, *values[1:]]] * 4 + [[41.0, None, None, None, None]]


def test_one_category_has_one_spelling(place: Place) -> None:
    big = 2**62 + 1
    cities = [5, "5", 5.0, True, "x y", None, big, -3, 2.5]
    place.write(*(line_of([{"city": city}], number=i) for i, city in enumerate(cities)))
    place.recorder.step()
    assert [row["features.city"] for row in place.rows()] == ["5", "5", "5", "True", "x y", None, str(big), "-3", "2.5"]


def test_a_category_beyond_64_bits_is_kept_to_the_digit(place: Place) -> None:
    place.write(line_of(b'[{"city": 123456789012345678901234567890}]'))
    place.recorder.step()
    assert place.rows()[0]["features.city"] == "123456789012345678901234567890"


def test_what_a_model_read_as_a_number_or_a_flag_is_one(place: Place) -> None:
    ages: list[Any] = [1, 2.5, " 3.5 ", True, None, 2**70]
    flags: list[Any] = [1, 0.0, "TRUE", "false", None, False]
    place.write(
        *(line_of([{"age": a, "member": f}], number=i) for i, (a, f) in enumerate(zip(ages, flags, strict=True)))
    )
    place.recorder.step()
    assert [row["features.age"] for row in place.rows()] == [1.0, 2.5, 3.5, 1.0, None, 2.0**70]
    assert [row["features.member"] for row in place.rows()] == [True, False, True, False, None, False]


def test_there_is_no_nan(place: Place) -> None:
    place.write(line_of([[1, 2], [3, 4]], p=[float("nan"), 7], c=[None, None]), models=(NARROW,))
    place.recorder.step()
    (path,) = place.requests_dir.rglob("*.parquet")
    table = pq.read_table(path)
    assert table.column("value").to_pylist() == [None, 7.0]
    assert [table.column(name).null_count for name in ("value", "prediction", "confidence")] == [1, 2, 2]


def test_models_of_arrays_have_predictions_alone(place: Place) -> None:
    lines = [line_of([[], []], number=1), line_of(b"[]", number=2, p=["a", "b", "c"], c=[0.1, 0.2, 0.3])]
    place.write(*lines, models=(ModelDescription("1", "a", "b", "multiclass", ()),))
    place.recorder.step()
    assert [row["prediction"] for row in place.rows()] == ["yes", "yes", "a", "b", "c"]


def test_awkward_names_of_columns_stay(place: Place) -> None:
    names = ['a"b', "größe in m²", "features.x", "x.y", "", "0"]
    for number, chosen in enumerate((names, names[1:])):
        model = ModelDescription("1", "a", "b", "binary", tuple((name, "numeric") for name in chosen))
        place.write(line_of([dict.fromkeys(chosen, 1)], number=number), models=(model,))
    place.recorder.step()
    place.now += 3 * 3600
    place.recorder.step()
    rows = [[row[f"features.{name}"] for name in names] for row in place.rows()]
    assert rows == [[1.0] * 6, [None, *[1.0] * 5]]


def test_a_segment_of_two_hours_is_split(place: Place) -> None:
    place.write(*(line_of([ROW], number=i, at=NOON + 3599.9 + i / 10) for i in range(3)))
    place.recorder.step()
    assert [name.split("/")[0] for name in place.files()] == ["2025-11-25T12.parts", "2025-11-25T13.parts"]
    assert [row["request_id"] for row in place.rows()] == ["r0", "r1", "r2"]


def test_models_of_different_columns_share_an_hour(place: Place) -> None:
    place.write(line_of([ROW]), line_of([[1, 2]], number=1, model=1, p=[9.5]), models=(MODEL, NARROW))
    place.write(line_of([{"age": 7, "income": 8}], number=2, p=[1.5]), models=(NARROW,))
    for _ in range(2):
        place.recorder.step()
        rows = place.rows()
        assert [row["features.age"] for row in rows] == [41.0, 1.0, 7.0]
        assert [row["features.income"] for row in rows] == [None, 2.0, 8.0]
        assert [row["features.city"] for row in rows] == ["Bonn", None, None]
        assert [row["value"] for row in rows] == [None, 9.5, 1.5]
        place.now += 2 * 3600
    assert place.files() == ["2025-11-25T12.parquet"]


def test_a_column_that_changes_its_kind_is_text(place: Place) -> None:
    for number, kind in enumerate(("numeric", "categorical", "boolean")):
        model = ModelDescription(str(number), "a", "b", "binary", (("x", kind),))
        place.write(line_of([[1]], number=number), models=(model,))
    place.recorder.step()
    place.now += 2 * 3600
    place.recorder.step()
    assert [row["features.x"] for row in place.rows()] == ["1", "1", "True"]


def test_a_journal_without_rows_leaves_no_file(place: Place) -> None:
    assert place.recorder.drain()
    place.write()
    place.write(models=())
    assert place.recorder.drain()
    assert not list(place.journal_dir.iterdir())
    assert place.files() == []
    assert place.rows() == []


def test_a_torn_last_line_is_left_out_and_counted(place: Place) -> None:
    place.write(line_of([ROW], number=1), end=line_of([ROW], number=2)[:-20])
    place.write(end=MODEL.line(0)[:-3], models=())
    place.recorder.step()
    assert place.ids() == ["r1"]
    assert (place.recorder.num_torn, place.recorder.num_damaged) == (2, 0)
    assert "torn" in place.warnings[0]


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0\n",
        b"not json\n",
        b"\n",
        b'{"m":7,"t":1}\n',
        b'{"model":0,"version":3}\n',
        line_of([[[1]]]),
        line_of([{"age": "old"}]),
        line_of([{"member": "maybe"}]),
        line_of([{"age": 1}], p=["a", "b"]),
        line_of([{"age": 1}], c=[0.5, 0.5]),
        line_of(b"[5]"),
        line_of(b"5"),
        line_of(b'[{"age": 1e400}]'),
        line_of(b'[{"city": "\xff"}]'),
        line_of([{"age": 1}], at=-7),
        line_of([{"age": 1}], at=1e12),
        line_of(b"[" * 100_000),
    ],
    ids=lambda line: str(line[:6] + line[90:115]),
)
def test_a_line_that_cannot_be_read_is_put_aside_alone(place: Place, line: bytes) -> None:
    segment = place.write(line_of([ROW], number=1), line, line_of([ROW], number=2))
    assert place.recorder.step()
    assert place.ids() == ["r1", "r2"]
    assert (place.journal_dir / "damaged" / segment.name).read_bytes() == line
    assert place.recorder.num_damaged == 1
    assert segment.name in place.warnings[0]


def test_a_prediction_that_is_no_number_is_put_aside(place: Place) -> None:
    place.write(line_of([[1, 2]], p=["much"]), line_of([[1, 2]], p=[3]), models=(NARROW,))
    place.recorder.step()
    assert [row["value"] for row in place.rows()] == [3.0]


def test_a_segment_that_cannot_be_read_stops_no_other(place: Place) -> None:
    place.write(line_of([ROW], number=1))
    (place.journal_dir / "20251125T110000.000000-1-aaaa.jsonl").mkdir()
    place.write(line_of([ROW], number=2))
    assert place.recorder.drain()
    assert place.ids() == ["r1", "r2"]
    assert (place.journal_dir / "damaged" / "20251125T110000.000000-1-aaaa.jsonl").is_dir()
    assert "cannot be converted" in place.warnings[0]


def test_an_open_segment_is_taken_only_from_the_dead(place: Place) -> None:
    limits = {"flush_seconds": 3600, "roll_seconds": 60, "max_pending_bytes": 2**20, "max_journal_bytes": 2**30}
    journal = Journal(place.journal_dir, **limits)  # type: ignore[arg-type]
    journal.describe(MODEL)
    journal.record(0, line_of([ROW], number=1), 1)
    journal.flush()
    orphan = place.write(line_of([ROW], number=2))
    orphan.rename(orphan.with_suffix(".open"))
    place.recorder.drain()
    assert place.ids() == ["r2"]
    journal.close()
    place.recorder.drain()
    assert place.ids() == ["r1", "r2"]


def test_hours_are_merged_when_they_are_over_and_late_parts_after_that(place: Place) -> None:
    names = [place.write(line_of([ROW], number=i)).stem for i in range(3)]
    place.now = NOON + 3600 + 119
    place.recorder.step()
    assert len(place.files()) == 3
    place.now += 1
    place.recorder.step()
    assert place.files() == ["2025-11-25T12.parquet"]
    assert not (place.requests_dir / "2025-11-25T12.parts").exists()
    names.append(place.write(line_of([ROW], number=3)).stem)
    place.recorder.step()
    assert place.files() == ["2025-11-25T12.parquet"]
    assert place.ids() == ["r0", "r1", "r2", "r3"]
    metadata = pq.read_metadata(place.requests_dir / "2025-11-25T12.parquet").metadata
    assert json.loads(metadata[b"mlops_hydra.parts"]) == sorted(names)


def test_a_part_that_was_merged_counts_as_gone(place: Place) -> None:
    segment = place.write(line_of([ROW], number=1))
    place.recorder.step()
    (part,) = (place.requests_dir / "2025-11-25T12.parts").iterdir()
    content = part.read_bytes()
    place.now += 2 * 3600
    place.recorder.step()
    part.parent.mkdir()
    part.write_bytes(content)
    assert place.ids() == ["r1"]
    place.write(line_of([ROW], number=1)).rename(segment)
    place.recorder.step()
    assert place.ids() == ["r1"]
    assert place.files() == ["2025-11-25T12.parquet"]


def test_what_comes_during_a_long_merge_is_converted_meanwhile(place: Place) -> None:
    for number in range(2):
        place.write(line_of([ROW], number=number))
    place.recorder.step()
    place.now += 2 * 3600
    late: list[Path] = []

    def between() -> None:
        if not late:
            late.append(place.write(line_of([ROW], number=7)))
            place.recorder._convert_finished()

    merge(place.requests_dir, "2025-11-25T12", between)
    assert place.files() == ["2025-11-25T12.parquet", f"2025-11-25T12.parts/{late[0].stem}.parquet"]
    assert place.ids() == ["r0", "r1", "r7"]


def test_a_damaged_file_stops_its_own_hour_alone(place: Place) -> None:
    place.write(line_of([ROW], number=1))
    place.write(line_of([ROW], number=2, at=NOON + 3600))
    place.recorder.step()
    (part,) = (place.requests_dir / "2025-11-25T12.parts").iterdir()
    part.write_bytes(part.read_bytes()[:-10])
    place.now += 3 * 3600
    for _ in range(2):
        place.write(line_of([ROW], number=3))
        assert place.recorder.step()
    assert "2025-11-25T13.parquet" in place.files()
    assert len(place.files()) == 4
    assert len(place.warnings) == 1
    with pytest.raises(DataError, match=rf"{part.name}: is damaged"):
        place.rows()


def test_a_damaged_hour_takes_late_parts_still(place: Place) -> None:
    (place.requests_dir).mkdir()
    (place.requests_dir / "2025-11-25T12.parquet").write_bytes(b"PAR1")
    place.write(line_of([ROW], number=1))
    assert place.recorder.step()
    assert len(place.files()) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_waited_for_and_leaves_nothing_half_written(place: Place, small_disk: Path) -> None:
    place.requests_dir = small_disk / "requests"
    place.requests_dir.mkdir()
    filler = small_disk / "filler"
    num_rows = 200
    for first in range(0, num_rows, 100):
        place.write(*(line_of([{**ROW, "city": os.urandom(400).hex()}], number=first + i) for i in range(100)))
    place.now += 2 * 3600
    states = []
    for free in (0, 20_000, 60_000, 120_000, 250_000):
        with filler.open("wb") as file, suppress(OSError):
            file.write(b"x" * (250_000 - free))
        recorder = place.new_recorder()
        states.append(recorder.drain())
        filler.unlink()
        if not states[-1]:
            assert "space" in place.warnings[-1]
        assert not [path for path in place.requests_dir.rglob(".*") if path.is_file()]
        waiting = sum(path.read_bytes().count(b'{"m":') for path in place.journal_dir.glob("*.jsonl"))
        ids = place.ids()
        assert len(ids) == len(set(ids)) >= num_rows - waiting
    assert states[0] is False
    assert states[-1] is True
    assert len(place.ids()) == num_rows
    assert place.files() == ["2025-11-25T12.parquet"]


KILLED_AT_EVERY_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from mlops_hydra.serving.request_log.recorder import Recorder
from mlops_hydra.serving.request_log.without_pandas import refuse_pandas

refuse_pandas()
origin, cases = Path(sys.argv[1]), Path(sys.argv[2])

def drain(folder, last):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    Recorder(folder / "journal", folder / "requests").drain()
    os._exit(0)

for last in range(1, 200):
    folder = cases / str(last)
    shutil.copytree(origin, folder)
    child = os.fork()
    if child == 0:
        drain(folder, last)
    _, status = os.waitpid(child, 0)
    if status == 0:
        print(last)
        break
    assert status == signal.SIGKILL, status
"""


def test_a_recorder_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    origin = Place(tmp_path / "origin")
    origin.write(*(line_of([ROW], number=i, at=NOON + 3500 + i * 10) for i in range(20)))
    origin.write(*(line_of([[1, 2]], number=20 + i, p=[i]) for i in range(5)), b"damaged\n", models=(NARROW,))
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path / "origin"), str(tmp_path / "cases")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
    for folder in (tmp_path / "cases").iterdir():
        case = Place(folder)
        case.now += 24 * 3600
        assert case.recorder.drain()
        assert case.ids() == sorted(f"r{i}" for i in range(25)), folder
        assert case.files() == ["2025-11-25T12.parquet", "2025-11-25T13.parquet"]
        assert [path.read_bytes() for path in (folder / "journal" / "damaged").iterdir()] == [b"damaged\n"]
        assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture
def processes() -> Iterator[Callable[[Path], "subprocess.Popen[bytes]"]]:
    """Starts recorders that have their configuration."""
    started: list[subprocess.Popen[bytes]] = []

    def start(output_dir: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "mlops_hydra.serving.request_log.recorder"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stdin is not None
        config = compose_command(ServeConfig, ["name=m", f"output_dir={output_dir}"], Roots(config_name="serve"))
        process.stdin.write(json.dumps({"config": config.model_dump(mode="json")}).encode() + b"\n")
        process.stdin.flush()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def place_of(tmp_path: Path) -> Place:
    place = Place(ServiceFolder.of(tmp_path, "m").path)
    place.now = time.time()
    return place


def test_the_process_converts_and_drains_when_its_supervisor_is_gone(
    tmp_path: Path, processes: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    place = place_of(tmp_path)
    place.write(line_of([ROW], number=1))
    process = processes(tmp_path)
    until(lambda: place.files() == ["2025-11-25T12.parquet"])
    place.write(line_of([ROW], number=2), end=b'{"m":0')
    _, errors = process.communicate()  # closes stdin
    assert process.returncode == 0
    assert place.ids() == ["r1", "r2"]
    assert b"torn" in errors


def test_a_second_process_waits_for_the_first(
    tmp_path: Path, processes: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    place = place_of(tmp_path)
    place.write(line_of([ROW], number=1))
    place.requests_dir.mkdir()
    with filelock.FileLock(place.requests_dir / ".lock"):
        waiting, stopped = processes(tmp_path), processes(tmp_path)
        stopped.communicate()
        assert stopped.returncode == 0
        assert place.files() == []
    until(lambda: place.files() != [])
    waiting.send_signal(signal.SIGTERM)
    waiting.wait(30)
    assert waiting.returncode == 0


def kill_at_random_moments(place: Place, tmp_path: Path, start: Callable[[Path], Any], num_kills: int) -> None:
    """Kill recorders while segments keep coming; then let one end."""
    chance, number = random.Random(5), 0
    first_seen: dict[str, bytes] = {}
    for _ in range(num_kills):
        for _ in range(20):
            at = NOON + chance.random() * 4 * 3600
            lines = [line_of([ROW, ROW], number=number + i, at=at + i) for i in range(50)]
            number += len(lines)
            place.write(*lines)
        process = start(tmp_path)
        begun = time.monotonic()
        until(lambda: bool(place.files()) or time.monotonic() > begun + 0.3)  # noqa: B023
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.wait()
        for name in place.files():
            path = place.requests_dir / name
            assert pq.ParquetFile(path).read().num_rows > 0
            if ".parts" in name:
                assert first_seen.setdefault(name, path.read_bytes()) == path.read_bytes()
    process = start(tmp_path)
    process.communicate()
    assert process.returncode == 0
    rows = [(row["request_id"], row["row"]) for row in place.rows()]
    assert len(rows) == len(set(rows)) == 2 * number
    assert not list(place.journal_dir.iterdir())


def test_processes_killed_at_random_moments_lose_and_double_nothing(
    tmp_path: Path, processes: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    kill_at_random_moments(place_of(tmp_path), tmp_path, processes, 2)


@pytest.mark.slow
def test_many_processes_killed_at_random_moments_lose_and_double_nothing(
    tmp_path: Path, processes: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    kill_at_random_moments(place_of(tmp_path), tmp_path, processes, 60)


MEMORY = r"""
import re, sys
from pathlib import Path
from mlops_hydra.serving.request_log.recorder import Recorder
from mlops_hydra.serving.request_log.without_pandas import refuse_pandas
refuse_pandas()
Recorder(Path(sys.argv[1]) / "journal", Path(sys.argv[1]) / "requests").drain()
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_segment_and_hour(place: Place, tmp_path: Path) -> None:
    model = ModelDescription("1", "a", "b", "binary", tuple((f"x{i}", "numeric") for i in range(64)))
    row = [random.random() for _ in range(64)]
    for _ in range(3):
        place.write(*(line_of([row], number=i) for i in range(40_000)), models=(model,))
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400
    assert sum(len(table) for table in read_requests(place.requests_dir)) == 120_000
