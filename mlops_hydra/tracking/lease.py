"""Who trains in a run's folder: a file with the process, its machine, and a sign of life.

A process on this machine lives or not, and the system knows; one elsewhere (a shared disk) lives while its file is
touched. Two that want the same folder are kept apart by `claim.py`.
"""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mlops_hydra.atomic import read_json, replacing

LEASE: Final = "lease.json"
BEAT_SECONDS: Final = 10.0
DEAD_SECONDS: Final = 120.0  # without a sign of life: twelve beats, and room for clocks that differ
_ENDED: Final = ("Z", "X")  # dead, but its parent has not asked how it ended


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, so that another with the same number is told apart: `started` is in ticks after `boot`."""

    host: str
    boot: str
    pid: int
    started: str
    since: float
    token: str
    experiment: str = ""  # what it trains for, until its record says so

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process(experiment: str = "") -> Owner:
    """Of the caller, with a token of its own."""
    pid, token = os.getpid(), secrets.token_hex(8)
    return Owner(socket.gethostname(), _boot(), pid, _started(pid) or "", time.time(), token, experiment)


def _boot() -> str:
    """What tells one start of a machine from the next, and one container from another on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When process `pid` began; "" where the system does not say, None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if stat[0] in _ENDED else stat[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def live_owner(folder: Path) -> Owner | None:
    """The living process that holds `folder`; None if nobody does."""
    path = folder / LEASE
    data = read_json(path)
    try:
        owner = Owner(**data) if data else None
        touched = path.stat().st_mtime
    except (TypeError, OSError):
        return None
    return owner if owner is not None and lives(owner, touched) else None


def lives(owner: Owner, touched: float) -> bool:
    """Whether the process is there: known of one on this machine, and of one elsewhere by its last sign of life."""
    is_fresh = time.time() - touched < DEAD_SECONDS
    if owner.host == socket.gethostname() and owner.boot == _boot():
        return _started(owner.pid) == owner.started and (owner.started != "" or is_fresh)
    return is_fresh


class Lease:
    """Held from `take` to `release`; the caller has made sure that nobody else takes it at the same time."""

    def __init__(self, folder: Path, experiment: str = "") -> None:
        self._path = folder / LEASE
        self._owner = this_process(experiment)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    @classmethod
    def take(cls, folder: Path, experiment: str = "") -> "Lease":
        """Raises TrackingError when the disk does not take it."""
        lease = cls(folder, experiment)
        with replacing(lease._path) as file:
            file.write(json.dumps(asdict(lease._owner)).encode())
        lease._thread.start()
        return lease

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):
                if self._is_ours():
                    os.utime(self._path)

    def release(self) -> None:
        """Leave the folder to whoever comes."""
        self._over.set()
        if self._is_ours():
            with suppress(OSError):
                self._path.unlink()

    def _is_ours(self) -> bool:
        """Whether nobody took this process for dead (a machine that slept) and the folder for free."""
        data = read_json(self._path)
        return data is not None and data.get("token") == self._owner.token
