import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.spool import Spool, ending, first_record, read_spool, recorded_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.jsonl"


def write(path: Path, *steps: int) -> None:
    spool = Spool(path)
    for step in steps:
        spool.append("metrics", step=step, values={"größe": 0.1})
    spool.close()


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_spool(path)[0]]


@given(values=st.dictionaries(st.text(), st.text()))
def test_what_was_appended_is_read_back(tmp_path_factory: pytest.TempPathFactory, values):
    path = tmp_path_factory.mktemp("spool") / "spool.jsonl"
    spool = Spool(path)
    spool.append("tags", values=values)
    spool.close()
    assert read_spool(path)[0] == [{"kind": "tags", "values": values}]


def test_a_line_can_be_read_as_soon_as_append_returns(path: Path):
    spool = Spool(path)
    spool.append("tags", values={})
    assert len(read_spool(path)[0]) == 1
    spool.close()


def test_reading_goes_on_where_it_ended(path: Path):
    write(path, 1, 2)
    _, offset = read_spool(path)
    assert read_spool(path, offset) == ([], offset)
    write(path, 3)
    assert [record["step"] for record in read_spool(path, offset)[0]] == [3]


def test_wherever_a_crash_tears_the_last_line_all_lines_before_it_are_read(path: Path):
    write(path, 1, 2, 3)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert steps_in(path) == [1, 2]


def test_a_run_that_goes_on_after_a_torn_line_loses_only_that_line(path: Path):
    write(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-5])
    write(path, 3)
    assert steps_in(path) == [1, 3]


def test_threads_never_mix_their_lines(path: Path):
    spool = Spool(path)

    def write_many(text: str) -> None:
        for _ in range(100):
            spool.append("tags", values={"text": text})

    workers = [threading.Thread(target=write_many, args=(letter * 500,)) for letter in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spool.close()
    assert len(read_spool(path)[0]) == 400


def test_nothing_can_be_added_once_the_run_has_ended(path: Path):
    spool = Spool(path)
    spool.close()
    with pytest.raises(TrackingError, match="has ended"):
        spool.append("tags", values={})


def test_a_full_disk_is_a_tracking_error_that_names_the_file():
    spool = Spool(Path("/dev/full"))
    with pytest.raises(TrackingError, match=r"/dev/full: the record of the run cannot be written: No space left"):
        spool.append("tags", values={})
    spool.close()


def test_the_first_record_is_that_of_a_start_or_none(path: Path):
    assert first_record(path) is None
    start = {"id": "s", "experiment": "e", "run_name": "r", "time": 1, "tags": {}, "description": ""}
    spool = Spool(path)
    spool.append("start", **start)
    spool.append("tags", values={})
    spool.close()
    assert first_record(path) == {"kind": "start", **start}
    for text in ('{"kind": "start"}\n', '{"kind": "tags", "values": {}}\n', '{"kind": "start", "id', "[]\n", "", "\n"):
        path.write_text(text)
        assert first_record(path) is None


def test_a_run_has_ended_unless_it_went_on_since(path: Path):
    spool = Spool(path)
    spool.append("metrics", step=1, values={})
    assert ending(path) is None
    for status in ("KILLED", "FINISHED"):
        spool.append("end", status=status, time=1)
        assert ending(path)["status"] == status
        for _ in range(5):
            spool.append("tags", values={"verdict": "x" * 8000})
        assert ending(path)["status"] == status, "what is recorded afterwards does not hide it"
        spool.append("resume", time=2)
        assert ending(path) is None
        spool.append("metrics", step=2, values={"text": "x" * 300_000})
        assert ending(path) is None
    spool.close()


def test_a_torn_end_is_none(path: Path):
    spool = Spool(path)
    spool.append("end", status="FINISHED", time=1)
    spool.close()
    path.write_bytes(path.read_bytes()[:-3])
    assert ending(path) is None


def test_what_was_measured_is_known_by_name_and_step(path: Path):
    spool = Spool(path)
    spool.append("metrics", step=1, values={"a": 1.0, "b": "nan"})
    spool.append("tags", values={"c": "1"})
    spool.append("metrics", step=2, values={"a": 1.0})
    spool.close()
    assert recorded_metrics(path) == {("a", 1), ("b", 1), ("a", 2)}
