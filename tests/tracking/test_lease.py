"""Who holds a folder, asked of real processes: living, killed, with a recycled number, on another machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mlops_hydra.tracking import lease as module
from mlops_hydra.tracking.lease import DEAD_SECONDS, LEASE, Lease, Owner, live_owner, this_process

HOLDER = """
import sys
from pathlib import Path
from mlops_hydra.tracking.lease import Lease
Lease.take(Path(sys.argv[1]), "theirs")
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `tmp_path`."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "taken\n"
        yield process
        process.kill()


def write(folder: Path, owner: Owner, *, age: float = 0) -> None:
    (folder / LEASE).write_text(json.dumps(asdict(owner)))
    os.utime(folder / LEASE, (time.time() - age,) * 2)


def test_a_folder_that_nobody_took_is_free(tmp_path: Path):
    assert live_owner(tmp_path) is None
    assert live_owner(tmp_path / "nowhere") is None


def test_a_folder_is_held_from_take_to_release(tmp_path: Path):
    lease = Lease.take(tmp_path, "tests")
    owner = live_owner(tmp_path)
    assert owner is not None and (owner.pid, owner.experiment) == (os.getpid(), "tests")
    lease.release()
    assert live_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_seen_to_live_and_to_die_at_once(tmp_path: Path, holder):
    owner = live_owner(tmp_path)
    assert owner is not None and owner.pid == holder.pid
    assert str(holder.pid) in str(owner) and owner.host in str(owner)
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but its parent did not collect it
    assert live_owner(tmp_path) is None
    holder.wait()
    assert live_owner(tmp_path) is None
    assert (tmp_path / LEASE).exists()


def test_a_process_that_is_stopped_lives(tmp_path: Path, holder):
    holder.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / LEASE, (0, 0))
    assert live_owner(tmp_path) is not None


def test_a_recycled_number_is_not_taken_for_the_owner(tmp_path: Path):
    ours = this_process()
    write(tmp_path, ours)
    assert live_owner(tmp_path) == ours
    write(tmp_path, replace(ours, started=str(int(ours.started) - 100)))
    assert live_owner(tmp_path) is None


def test_after_a_restart_of_the_machine_only_the_heartbeat_counts(tmp_path: Path):
    before = replace(this_process(), boot="another boot")
    write(tmp_path, before, age=DEAD_SECONDS + 1)
    assert live_owner(tmp_path) is None


@pytest.mark.parametrize(("age", "lives"), [(0, True), (DEAD_SECONDS - 5, True), (DEAD_SECONDS + 1, False)])
def test_a_process_on_another_machine_lives_while_it_gives_signs(tmp_path: Path, age: float, lives: bool):
    elsewhere = replace(this_process(), host="far away")
    write(tmp_path, elsewhere, age=age)
    assert live_owner(tmp_path) == (elsewhere if lives else None)


def test_without_a_proc_file_system_a_number_is_believed_while_it_gives_signs(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "_started", lambda pid: "" if pid == os.getpid() else None)
    ours = this_process()
    assert ours.started == ""
    write(tmp_path, ours)
    assert live_owner(tmp_path) == ours
    write(tmp_path, ours, age=DEAD_SECONDS + 1)
    assert live_owner(tmp_path) is None


def test_a_lease_is_touched_as_long_as_it_is_held(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    lease = Lease.take(tmp_path)
    os.utime(tmp_path / LEASE, (0, 0))
    deadline = time.monotonic() + 10
    while (tmp_path / LEASE).stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / LEASE).stat().st_mtime > 0
    lease.release()


def test_who_lost_a_folder_neither_releases_it_nor_keeps_its_new_owner_alive(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    lost = Lease.take(tmp_path)
    other = replace(this_process(), host="far away")
    write(tmp_path, other, age=DEAD_SECONDS + 1)
    lost._thread.join(0.1)  # ten beats
    assert live_owner(tmp_path) is None
    lost.release()
    assert json.loads((tmp_path / LEASE).read_text())["token"] == other.token


@pytest.mark.parametrize(
    "content", [b"", b'{"host": "a', b"[]", b"{}", b'{"host": 1}', b"\xff\xfe", b'{"pid": "x", "strange": 1}']
)
def test_a_torn_or_foreign_lease_holds_nothing(tmp_path: Path, content: bytes):
    (tmp_path / LEASE).write_bytes(content)
    assert live_owner(tmp_path) is None
    Lease.take(tmp_path).release()
    assert not (tmp_path / LEASE).exists()
