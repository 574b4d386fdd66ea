"""Reading the request log: each row once, of one schema, also while the recorder works."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlops_hydra.errors import DataError, UsageError
from mlops_hydra.serving.request_log.journal import ModelDescription, entry
from mlops_hydra.serving.request_log.reader import read_as_logged, read_requests
from mlops_hydra.serving.request_log.recorder import Recorder

NOON = datetime(2025, 11, 25, 12, tzinfo=UTC)
AGE = ModelDescription("1", "a", "b", "binary", (("age", "numeric"),))
CITY = ModelDescription("2", "c", "d", "binary", (("city", "categorical"), ("age", "categorical")))


def record(path: Path, *minutes: int, model: ModelDescription = AGE, now: datetime = NOON, name: str = "") -> None:
    """One request at each of these minutes after noon, as a recorder leaves them."""
    journal = path / "journal"
    journal.mkdir(exist_ok=True)
    lines = [
        entry(
            model=0, time_us=round((NOON + timedelta(minutes=minute)).timestamp() * 1e6), request_id=str(minute),
            user_id=None, variant="control", assigned_by="request_id", rows=b'[{"age": 1, "city": "Bonn"}]',
            predictions=["yes"], confidences=[0.5],
        )
        for minute in minutes
    ]  # fmt: skip
    (journal / f"{name or minutes[0]}.jsonl").write_bytes(b"".join([model.line(0), *lines]))
    Recorder(journal, path / "requests", now.timestamp).drain()


def ids(path: Path, **chosen: Any) -> list[int]:
    tables = read_requests(path / "requests", **chosen)
    return [int(value) for table in tables for value in table.column("request_id").to_pylist()]


def test_no_folder_is_an_empty_log(tmp_path: Path) -> None:
    assert list(read_requests(tmp_path / "requests")) == []
    assert list(read_as_logged(tmp_path / "requests", ["value"])) == []


@pytest.mark.parametrize("is_merged", [False, True])
def test_hours_come_in_order_and_only_what_was_asked_for(tmp_path: Path, is_merged: bool) -> None:
    now = NOON + timedelta(days=1 if is_merged else 0)
    for minutes in ((130, 0, 59), (60, 119), (-1, 61)):
        record(tmp_path, *minutes, now=now)
    assert sorted(ids(tmp_path)) == [-1, 0, 59, 60, 61, 119, 130]
    assert [minute // 60 for minute in ids(tmp_path)] == [-1, 0, 0, 1, 1, 1, 2]
    half_past = NOON + timedelta(minutes=60)
    assert sorted(ids(tmp_path, since=half_past)) == [60, 61, 119, 130]
    assert sorted(ids(tmp_path, until=half_past)) == [-1, 0, 59]
    assert sorted(ids(tmp_path, since=NOON + timedelta(minutes=59), until=NOON + timedelta(minutes=61))) == [59, 60]
    in_berlin = (NOON + timedelta(minutes=119)).astimezone(tz=None)
    assert sorted(ids(tmp_path, since=in_berlin)) == [119, 130]


def test_columns_come_as_asked_and_of_the_type_that_they_have_elsewhere(tmp_path: Path) -> None:
    record(tmp_path, 0, model=AGE)
    city = ModelDescription("2", "c", "d", "binary", (("city", "categorical"),))
    record(tmp_path, 60, model=city)
    chosen = ["features.city", "confidence", "features.age", "features.none"]
    first, second = read_requests(tmp_path / "requests", columns=chosen)
    types = [pa.string(), pa.float64(), pa.float64(), pa.null()]
    assert first.schema == second.schema == pa.schema(list(zip(chosen, types, strict=True)))
    assert first.to_pylist() == [dict(zip(chosen, [None, 0.5, 1.0, None], strict=True))]
    assert second.to_pylist() == [dict(zip(chosen, ["Bonn", 0.5, None, None], strict=True))]
    asked = ["features.age", "features.city"]
    as_logged = [set(table.column_names) - {"time"} for table in read_as_logged(tmp_path / "requests", asked)]
    assert as_logged == [{"features.age"}, {"features.city"}]


def test_a_column_of_two_types_is_text_in_all_hours(tmp_path: Path) -> None:
    record(tmp_path, 0, model=AGE)
    record(tmp_path, 60, model=CITY)
    values = [table.column("features.age") for table in read_requests(tmp_path / "requests")]
    assert [column.to_pylist() for column in values] == [["1"], ["1"]]
    assert {column.type for column in values} == {pa.string()}


def test_a_column_whose_name_begins_another_is_read_alone(tmp_path: Path) -> None:
    record(tmp_path, 0, model=ModelDescription("1", "a", "b", "binary", (("age", "numeric"), ("age.x", "numeric"))))
    (table,) = read_requests(tmp_path / "requests", columns=["features.age"])
    assert table.to_pylist() == [{"features.age": 1.0}]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text"])
@pytest.mark.parametrize("name", ["2025-11-25T12.parquet", "2025-11-25T12.parts/x.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "requests" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: is damaged"):
        ids(tmp_path)


def test_a_file_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    record(tmp_path, *range(60), now=NOON + timedelta(days=1))
    path = tmp_path / "requests" / "2025-11-25T12.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: is damaged"):
        ids(tmp_path)


def test_other_files_are_not_of_the_log(tmp_path: Path) -> None:
    record(tmp_path, 0)
    (tmp_path / "requests" / "notes.parquet").write_text("mine")
    (tmp_path / "requests" / ".2025-11-25T12.parquet-1.partial").write_text("begun")
    (tmp_path / "requests" / "2025-11-25T12.parts" / ".x.parquet").write_text("begun")
    assert ids(tmp_path) == [0]


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (
            {"columns": ["time", "varient"]},
            "columns: must be of the request log .* got 'varient'. Did you mean variant",
        ),
        ({"since": datetime(2025, 1, 1)}, "since: must have a time zone"),
        ({"until": datetime(2025, 1, 1)}, "until: must have a time zone"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(tmp_path: Path, chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_requests(tmp_path, **chosen)


def test_an_hour_that_is_merged_while_it_is_read_comes_once(tmp_path: Path) -> None:
    record(tmp_path, 0, 1)
    record(tmp_path, 2, 3)
    record(tmp_path, 60)
    tables = read_requests(tmp_path / "requests", columns=["request_id"])
    seen = next(tables).column("request_id").to_pylist()
    Recorder(tmp_path / "journal", tmp_path / "requests", (NOON + timedelta(days=1)).timestamp).step()
    assert not list((tmp_path / "requests").glob("*.parts"))
    assert [*seen, *(value for table in tables for value in table.column("request_id").to_pylist())] == [
        "0", "1", "2", "3", "60",
    ]  # fmt: skip


def test_readers_see_each_row_once_while_the_recorder_works(tmp_path: Path) -> None:
    record(tmp_path, 0)
    reads: list[Sequence[int]] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            reads.append(ids(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 50):
            record(tmp_path, number, now=NOON + timedelta(days=number % 2), name=str(number))
    finally:
        is_over.set()
        reader.join()
    assert len(reads) > 3
    for read_ids in reads:
        assert sorted(read_ids) == list(range(len(read_ids)))
    assert sorted(ids(tmp_path)) == list(range(50))
