"""The files of a journal: one writer each, whole lines, a name that says whether they are still written.

A segment is `<name>.open` while its writer lives and holds a lock on it, and `<name>.jsonl` from then on; the recorder
finishes those of writers that died. Standard library only. Not here: what is in the lines.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

OPEN: Final = ".open"
FINISHED: Final = ".jsonl"
_STALE_SECONDS: Final = 3600.0


class Segment:
    """A new one. `num_bytes` are whole lines; `described` the models that it describes.

    Raises:
        OSError: the disk does not take it.
    """

    def __init__(self, folder: Path, now: float) -> None:
        self.started = now
        self.num_bytes = 0
        self.described: set[int] = set()
        name = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}-{secrets.token_hex(2)}"
        self._path = folder / f"{name}{OPEN}"
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{name}"  # until it is locked: the recorder would take it for a dead writer's
        self._handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._path)
        except OSError:
            os.close(self._handle)
            hidden.unlink(missing_ok=True)
            raise

    def write(self, lines: Sequence[bytes]) -> int:
        """How many of the lines are in the file now: fewer than were given where the disk takes no more.

        One call to the system, without a copy, during which other threads run. At most 1,024 lines. After fewer, write
        no more to this one.

        Raises:
            OSError: none was written.
        """
        if os.fstat(self._handle).st_nlink == 0:
            raise FileNotFoundError(None, "was removed", str(self._path))
        left = os.writev(self._handle, lines)
        for place, line in enumerate(lines):
            if left < len(line):
                with suppress(OSError):  # then the file ends in a torn line, which no reader minds
                    os.ftruncate(self._handle, self.num_bytes)
                return place
            left -= len(line)
            self.num_bytes += len(line)
        return len(lines)

    def finish(self) -> None:
        """Leave it to the recorder; an empty one is removed. Never raises: then the recorder finds it orphaned."""
        with suppress(OSError):
            if self.num_bytes:
                self._path.rename(self._path.with_suffix(FINISHED))
            else:
                self._path.unlink()
        with suppress(OSError):
            os.close(self._handle)


def finished_segments(folder: Path) -> list[Path]:
    """Oldest first, with those of writers that died, which are finished here."""
    for path in folder.glob(f"*{OPEN}"):
        _take_over(path)
    for path in folder.glob(".*-*-*"):  # its writer died before it was locked
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
    return sorted(folder.glob(f"*{FINISHED}"))


def _take_over(path: Path) -> None:
    """Finish it if nobody holds it. What its writer finishes meanwhile has its new name already."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(path.with_suffix(FINISHED))
        finally:
            os.close(handle)


def waiting_bytes(folder: Path) -> int:
    """Of all segments, of all writers."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file():
                    total += entry.stat().st_size
    return total
