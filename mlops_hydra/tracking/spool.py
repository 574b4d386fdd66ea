"""Everything that a run records, in order, in one file that outlives the process: `spool.jsonl`.

MLflow is fed from this file (`delivery.py`), so training waits for no server, and what a server missed can be sent
again: times and steps are fixed when a line is written, which makes sending twice the same as sending once.

One JSON object a line, `kind` first; `time` in milliseconds since 1970:

    {"kind": "start", "id", "experiment", "run_name", "time", "tags", "description", "script", "parent": id or null}
    {"kind": "params", "values": {name: text}}
    {"kind": "metrics", "step", "time", "values": {name: number, or "nan", "inf", "-inf"}}
    {"kind": "tags", "values": {name: text}}
    {"kind": "artifact", "path": relative to the run folder, "to": folder among MLflow's artifacts, "" its root}
    {"kind": "end", "status": "FINISHED", "FAILED" or "KILLED", "time"}
    {"kind": "resume", "time"} where a run goes on that had ended, or whose process had died
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Final

from mlops_hydra.errors import TrackingError

SPOOL: Final = "spool.jsonl"
_TAIL_BYTES: Final = 100_000  # an end is followed by a few tags at most, each of 8,000 characters at most
_ENDS: Final = (b'{"kind": "end"', b'{"kind": "resume"')
_NEEDED: Final = frozenset({"id", "experiment", "run_name", "time", "tags", "description"})
Record = dict[str, Any]


class Spool:
    """The writing end. A line is with the operating system when `append` returns; threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._file = path.open("ab", buffering=0)
            self._torn = _ends_torn(path)
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, kind: str, **fields: Any) -> None:
        """Write one line.

        Raises:
            TrackingError: the run has ended, or the disk does not take the line.
        """
        line = json.dumps({"kind": kind, **fields}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._file.closed:
                raise TrackingError(f"{self.path}: the run has ended; nothing can be added to its record")
            try:
                self._write(line)
            except OSError as error:
                raise self._unwritable(error) from error

    def _write(self, line: bytes) -> None:
        line = b"\n" + line if self._torn else line
        self._torn = True  # until the whole line is out: a full disk takes a part of it
        while line:
            line = line[self._file.write(line) :]
        self._torn = False

    def sync(self) -> None:
        """Make what was appended last through a power failure."""
        with self._lock:
            if not self._file.closed:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """No line can be added afterwards."""
        with self._lock:
            self._file.close()

    def _unwritable(self, error: OSError) -> TrackingError:
        return TrackingError(f"{self.path}: the record of the run cannot be written: {error.strerror}")


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def read_spool(path: Path, offset: int = 0) -> tuple[list[Record], int]:
    """The complete records from byte `offset` on, and the offset after them.

    A last line without its end is still being written, or was torn by a crash: it is left for the next call. A torn
    line in the middle is skipped.
    """
    records, end = read_spool_with_ends(path, offset)
    return [record for record, _ in records], end


def read_spool_with_ends(path: Path, offset: int) -> tuple[list[tuple[Record, int]], int]:
    """Like `read_spool`, each record with the byte where its line ends."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read()
    whole = block[: block.rfind(b"\n") + 1]
    records, end = [], offset
    for line in whole.splitlines(keepends=True):
        end += len(line)
        if (record := _parse(line)) is not None:
            records.append((record, end))
    return records, end


def recorded_metrics(path: Path) -> frozenset[tuple[str, int]]:
    """Name and step of every number in the record."""
    records = read_spool(path)[0]
    return frozenset((name, r["step"]) for r in records if r["kind"] == "metrics" for name in r["values"])


def has_params(path: Path) -> bool:
    """Whether the params, which end the record of what the run is of, are there."""
    return any(record["kind"] == "params" for record in read_spool(path)[0])


def first_record(path: Path) -> Record | None:
    """The start of a run's record; None if there is none that can be read."""
    try:
        with path.open("rb") as file:
            record = _parse(file.readline())
    except OSError:
        return None
    is_start = record is not None and record["kind"] == "start" and record.keys() >= _NEEDED
    return record if is_start else None


def ending(path: Path) -> Record | None:
    """How the run ended the last time, if it has not gone on since: an `end` near the end of the file."""
    with path.open("rb") as file:
        begin = max(0, file.seek(0, 2) - _TAIL_BYTES)
        file.seek(begin)
        lines = file.read().split(b"\n")[1 if begin else 0 :]
    ends = (line for line in reversed(lines) if line.startswith(_ENDS))  # the others are not worth parsing
    found = next((record for line in ends if (record := _parse(line))), None)
    return found if found is not None and found["kind"] == "end" else None


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
