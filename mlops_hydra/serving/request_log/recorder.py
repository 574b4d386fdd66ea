"""The process that makes Parquet files of what workers wrote: `python -m mlops_hydra.serving.request_log.recorder`.

Finished segments of the journal become parts of hours, parts of hours that are over become one file each (`parts.py`).
A recorder that is killed anywhere leaves a state from which the next one comes to the same end, with each row once. A
full disk is waited for. What cannot be read is put aside in `damaged/` below the journal. No pandas, no torch.

One line of JSON on stdin: {"config": {...}}. It works until SIGTERM or the end of stdin, then on what is left.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import filelock

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import DataError, TrackingError
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.request_log.parquet_files import hours_of, parts_dir
from mlops_hydra.serving.request_log.parts import LeftOut, convert, merge
from mlops_hydra.serving.request_log.segments import finished_segments
from mlops_hydra.serving.request_log.without_pandas import refuse_pandas

DAMAGED: Final = "damaged"
LOCK: Final = ".lock"
_SETTLED_SECONDS: Final = 120.0  # after an hour, for its last segments to come
_PAUSE_SECONDS: Final = 1.0
_TRY_AGAIN_SECONDS: Final = 10.0
_NICE: Final = 10  # who waits for a prediction comes first


def _warn(message: str) -> None:
    with suppress(OSError, ValueError):  # the supervisor may be gone, with its end of the pipe
        print(f"recorder: {message}", file=sys.stderr, flush=True)


class Recorder:
    """Works on these two folders, alone. `num_torn` lines were left out, `num_damaged` put aside."""

    def __init__(
        self,
        journal_dir: Path,
        requests_dir: Path,
        clock: Callable[[], float] = time.time,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        self._journal_dir = journal_dir
        self._damaged_dir = journal_dir / DAMAGED
        self._requests_dir = requests_dir
        self._clock = clock
        self._warn = warn
        self._unmergeable: set[str] = set()
        self.num_torn = 0
        self.num_damaged = 0
        for folder in (requests_dir, *requests_dir.glob("*.parts"), self._damaged_dir):
            for path in folder.glob(".*.partial"):  # what one that was killed had begun
                path.unlink(missing_ok=True)

    def step(self) -> bool:
        """Convert all finished segments, merge all hours that are over; False if the disk takes no more."""
        try:
            self._convert_finished()
            for hour in hours_of(self._requests_dir):
                if self._is_over(hour) and parts_dir(self._requests_dir, hour).exists():
                    self._merge(hour)
        except (TrackingError, OSError) as error:
            self._warn(f"{error}; it will be tried again")
            return False
        return True

    def drain(self) -> bool:
        """The same until no segment is left, but for those that are still written."""
        while self.step():
            if not finished_segments(self._journal_dir):
                return True
        return False

    def _convert_finished(self) -> None:
        for segment in finished_segments(self._journal_dir):
            try:
                left_out = convert(segment, self._requests_dir, self._damaged_dir)
            except (TrackingError, OSError, MemoryError):
                raise
            except Exception as error:  # whatever it is, the next recorder would meet it again
                self._put_aside(segment, error)
            else:
                segment.unlink()
                self._tell(segment, left_out)

    def _put_aside(self, segment: Path, error: Exception) -> None:
        """It must not keep others from being converted."""
        self._damaged_dir.mkdir(exist_ok=True)
        segment.rename(self._damaged_dir / segment.name)
        self._warn(f"{segment.name} cannot be converted ({error}); it is in {self._damaged_dir} now")

    def _tell(self, segment: Path, left_out: LeftOut) -> None:
        self.num_torn += left_out.num_torn
        self.num_damaged += left_out.num_damaged
        if left_out.num_torn:
            self._warn(f"{segment.name}: its last line is torn and left out; its writer was killed")
        if left_out.num_damaged:
            self._warn(
                f"{segment.name}: {left_out.num_damaged} lines cannot be read; they are in {self._damaged_dir} now"
            )

    def _is_over(self, hour: str) -> bool:
        end = datetime.fromisoformat(f"{hour}:00+00:00").timestamp() + 3600
        return self._clock() >= end + _SETTLED_SECONDS

    def _merge(self, hour: str) -> None:
        if hour in self._unmergeable:
            return
        try:
            merge(self._requests_dir, hour, self._convert_finished)
        except DataError as error:
            self._unmergeable.add(hour)
            self._warn(f"{error}; the parts of {hour} stay as they are")


class _Ending:
    """SIGTERM, or the end of stdin: the supervisor stops, or has died."""

    def __init__(self) -> None:
        self._signalled, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGTERM, lambda *_: None)

    def within(self, seconds: float) -> bool:
        """Wait at most so long for it."""
        stdin = sys.stdin.fileno()
        ready, _, _ = select.select([stdin, self._signalled], [], [], seconds)
        return self._signalled in ready or (stdin in ready and not os.read(stdin, 4096))


def main() -> int:
    """The process."""
    ending = _Ending()
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    refuse_pandas()
    os.nice(_NICE)
    folder = ServiceFolder.for_config(ServeConfig.model_validate_json(json.dumps(json.loads(line)["config"])))
    folder.requests.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.requests / LOCK)
    while not _taken(lock):
        if ending.within(_PAUSE_SECONDS):
            return 0  # the other one sees to it
    recorder = Recorder(folder.journal, folder.requests)
    while not ending.within(_PAUSE_SECONDS if recorder.step() else _TRY_AGAIN_SECONDS):
        pass
    recorder.drain()
    return 0  # and the lock is gone with the process


def _taken(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
