"""What a folder says of its run, also where it is damaged."""

import time
from pathlib import Path

import pytest

from mlops_hydra.tracking.lease import Lease
from mlops_hydra.tracking.recorded import ago, local_runs, read_result, read_run, reap
from mlops_hydra.tracking.spool import SPOOL, ending


@pytest.mark.parametrize("state", ["finished", "failed", "killed", "running"])
def test_a_folder_says_what_became_of_its_run(make_config, make_folder, lineage, state: str):
    config = make_config()
    folder = make_folder(config, state, seconds=100)
    lease = Lease.take(folder) if state == "running" else None
    run = read_run(folder)
    assert (run.state, run.folder, run.fingerprint, run.lineage) == (state, folder, config.fingerprint, lineage)
    assert (run.name, run.overrides, run.label) == ("tests", "seed=0", lineage.digest)
    assert (run.owner is not None, run.result is not None) == (state == "running", state == "finished")
    assert run.verdict == ("passed" if state == "finished" else None)
    assert run.began == pytest.approx(time.time() - 100, abs=30)
    assert run.time == pytest.approx(time.time() - (0 if state == "running" else 100), abs=30)
    if lease:
        lease.release()


def test_a_process_that_died_left_a_killed_run_or_a_finished_one_without_an_end(make_config, make_folder):
    config = make_config()
    dead = read_run(make_folder(config, "dead"))
    assert (dead.state, dead.is_ended) == ("killed", False)
    folder = make_folder(config, "finished")
    (folder / SPOOL).write_bytes(b"".join((folder / SPOOL).read_bytes().splitlines(keepends=True)[:-1]))
    run = read_run(folder)
    assert (run.state, run.is_ended) == ("finished", False)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"kind": "start"}\n', b"\xff\n", b'{"kind": "tags"}\n'])
def test_a_folder_without_the_beginning_of_a_record_is_no_run(tmp_path: Path, content: bytes | None):
    folder = tmp_path / "runs" / "f" / "l"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / SPOOL).write_bytes(content)
    assert read_run(folder) is None
    assert local_runs(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdict": "passed"}'])
def test_a_torn_or_foreign_result_is_none(make_config, make_folder, content: str):
    folder = make_folder(make_config(), "finished")
    assert read_result(folder) is not None
    (folder / "result.json").write_text(content)
    assert read_result(folder) is None
    assert read_run(folder).state == "killed"


def test_runs_come_oldest_first_and_by_fingerprint(make_config, make_folder, tmp_path: Path):
    first, second = make_config(), make_config(seed=1)
    made = [make_folder(first, "killed", seconds=seconds) for seconds in (10, 30, 20)]
    other = make_folder(second, "killed", seconds=40)
    (tmp_path / "outputs" / "runs" / first.fingerprint / ".fetched-1").mkdir()
    (tmp_path / "outputs" / "runs" / first.fingerprint / "result.json").write_text("{}")
    found = [run.folder for run in local_runs(tmp_path / "outputs")]
    assert found == [other, made[1], made[2], made[0]]
    assert [run.folder for run in local_runs(tmp_path / "outputs", second.fingerprint)] == [other]
    assert local_runs(tmp_path / "nowhere") == []


def test_a_dead_run_is_reaped_once(make_config, make_folder):
    folder = make_folder(make_config(), "dead")
    run = read_run(folder)
    assert reap(run) and not reap(run)
    assert ending(folder / SPOOL)["status"] == "KILLED"
    assert read_run(folder).is_ended


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7300, "2 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 days"),
        (1e7, "115 days"),
    ],
)
def test_ages_are_told_in_the_unit_that_people_would_use(seconds: float, text: str):
    assert ago(seconds) == f"{text} ago"
