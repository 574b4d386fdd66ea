"""What a worker writes of its predictions: JSON lines, which the recorder turns into Parquet. No pyarrow here.

The event loop only appends to a list (0.2 us); a thread writes. Two kinds of lines:

    {"model": N, "version", "fingerprint", "lineage", "features": [[name, kind], ...], "task"}
    {"m": N, "t": microseconds since 1970, "id", "user", "arm", "by", "rows": [...], "p": [...], "c": [...]}

The first stands before the first use of a model in each file, so a file can be read without any other.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mlops_hydra.serving.request_log.hashing import hashed, read_or_create_key
from mlops_hydra.serving.request_log.segments import Segment, waiting_bytes

__all__ = ["ENTRY_START", "MODEL_START", "Journal", "ModelDescription", "entry", "hashed", "read_or_create_key"]

MODEL_START: Final = b'{"model":'
ENTRY_START: Final = b'{"m":'
_MAX_SEGMENT_BYTES: Final = 64 * 2**20
_EARLY_BYTES: Final = 2**20  # so many are written before it is time: large requests would fill the memory in a second
_BATCH_LINES: Final = 512  # one call to the system takes 1,024 buffers; between two calls the event loop has its turn
_ENTRY_BYTES: Final = 150  # what a pending line takes besides its bytes: two objects and a place in a list
_CLOSE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What predicted. `features` are name and kind of what is logged of a row; a hashed column has the kind `hashed`.

    A model of arrays has none, and its rows are empty.
    """

    version: str
    fingerprint: str
    lineage: str
    task: str
    features: tuple[tuple[str, str], ...]

    def line(self, number: int) -> bytes:
        """That of a journal in which the model has this number."""
        names = ("version", "fingerprint", "lineage", "features", "task")
        return msgspec.json.encode({"model": number, **{name: getattr(self, name) for name in names}}) + b"\n"


class _Entry(msgspec.Struct, gc=False):
    """In the order of its line."""

    m: int
    t: int
    id: str
    user: str | None
    arm: str
    by: str
    rows: msgspec.Raw
    p: Sequence[object]
    c: Sequence[float | None]


_encode_lines = msgspec.json.Encoder().encode_lines


def entry(  # noqa: PLR0913  the fields of a line; a dataclass in between would double its cost
    *,
    model: int,
    time_us: int,
    request_id: str,
    user_id: str | None,
    variant: str,
    assigned_by: str,
    rows: bytes,
    predictions: Sequence[object],
    confidences: Sequence[float | None],
) -> bytes:
    """The line of one request: 1 us for a row of 64 numbers.

    Args:
        rows: the JSON list of the rows; it is not looked into. NaN in the other values becomes null.
        predictions: of each row, a class or a number. List or tuple of plain values.
        confidences: of each row; empty: none has one.
    """
    if b"\n" in rows:  # only ever between two tokens: within a string JSON has it escaped
        rows = rows.replace(b"\n", b" ")
    raw = msgspec.Raw(rows)
    made = _Entry(model, time_us, request_id, user_id, variant, assigned_by, raw, predictions, confidences)
    return _encode_lines([made])


class Journal:
    """The writing end, of one process. `record` and `describe` are for one thread, the event loop's.

    What was written outlives a process that is killed: it is with the operating system, which a crash of the whole
    machine takes some seconds of (nothing waits for the disk). So a killed worker loses what it recorded in the last
    `flush_seconds`. A disk that takes nothing is tried again every `flush_seconds`; until it does, lines wait in
    memory, `max_pending_bytes` of them, and what comes then is dropped and counted. Nothing here raises for a disk.

    Args:
        roll_seconds: until a segment is finished, which is when the recorder reads it.
        max_journal_bytes: in the folder, of all its writers; each may be over it by one batch of lines.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_seconds: float,
        roll_seconds: float,
        max_pending_bytes: int,
        max_journal_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._flush_seconds = flush_seconds
        self._roll_seconds = roll_seconds
        self._max_pending_bytes = max_pending_bytes
        self._early_bytes = min(max_pending_bytes // 2, _EARLY_BYTES)
        self._max_journal_bytes = max_journal_bytes
        self._clock = clock
        self._numbers: dict[ModelDescription, int] = {}
        self._descriptions: list[ModelDescription] = []
        # Never replaced, so both threads may use it: appending, and removing a slice, are one step each. The counts
        # have one writer each, for `+=` is not.
        self._pending: list[tuple[int, bytes, int]] = []
        self._taken_bytes = 0
        self._rows_refused = 0
        self._written_bytes = 0
        self._rows_recorded = 0
        self._rows_lost = 0
        self._error: str | None = None
        self._segment: Segment | None = None
        self._flushing = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def rows_recorded(self) -> int:
        """Rows that are in a file."""
        return self._rows_recorded

    @property
    def rows_dropped(self) -> int:
        """Rows that never will be."""
        return self._rows_refused + self._rows_lost

    @property
    def error(self) -> str | None:
        """Why lines cannot be written at the moment."""
        return self._error

    def describe(self, description: ModelDescription) -> int:
        """The number of this model in the lines of this journal; always the same."""
        number = self._numbers.get(description)
        if number is None:
            number = self._numbers[description] = len(self._descriptions)
            self._descriptions.append(description)
        return number

    def record(self, model: int, line: bytes, num_rows: int) -> bool:
        """Have a line of `entry` written soon; False if there is no room for it, and its rows are dropped."""
        taken_bytes = self._taken_bytes + len(line) + _ENTRY_BYTES
        pending_bytes = taken_bytes - self._written_bytes
        if pending_bytes > self._max_pending_bytes:
            self._rows_refused += num_rows
            return False
        self._taken_bytes = taken_bytes
        self._pending.append((model, line, num_rows))
        if pending_bytes > self._early_bytes >= pending_bytes - len(line) - _ENTRY_BYTES:
            self._wake.set()
        return True

    def flush(self) -> None:
        """Write what is pending; finish the segment if it is due."""
        with self._flushing:
            try:
                self._write_pending()
                if self._segment is not None and self._is_due(self._segment):
                    self._finish()
                self._error = None
            except OSError as error:
                self._error = f"{self._folder}: cannot be written: {error.strerror or error}"
                self._finish()  # it may end in a torn line
            except Exception as error:  # a thread that ended in silence would drop all that comes
                self._error = f"{self._folder}: cannot be written: {error!r}"
                self._finish()

    def close(self) -> None:
        """Write everything and finish the segment; what a disk does not take within ten seconds is dropped."""
        self._max_pending_bytes = -1  # from here on `record` refuses
        self._is_closing = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)
        lost = list(self._pending)
        del self._pending[: len(lost)]
        self._rows_lost += sum(num_rows for _, _, num_rows in lost)

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.flush()
        self.flush()  # what came during the last one
        with self._flushing:
            self._finish()

    def _write_pending(self) -> None:
        num_lines = len(self._pending)
        if num_lines == 0:
            return
        room = self._max_journal_bytes - waiting_bytes(self._folder)
        while num_lines > 0:
            if room <= 0:
                raise OSError(errno.ENOSPC, f"{self._max_journal_bytes} bytes wait for the recorder, and no more may")
            batch = self._pending[: min(num_lines, _BATCH_LINES)]
            self._append(batch)
            room -= sum(len(line) for _, line, _ in batch)
            num_lines -= len(batch)

    def _append(self, batch: Sequence[tuple[int, bytes, int]]) -> None:
        """Raises OSError where not all of it could be written; the rest stays pending."""
        segment = self._current_segment()
        new = sorted({model for model, _, _ in batch} - segment.described)
        lines = [*(self._descriptions[model].line(model) for model in new), *(line for _, line, _ in batch)]
        num_written = segment.write(lines)
        segment.described.update(new[:num_written])
        if num_written > len(new):
            self._release(num_written - len(new))
        if num_written < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _release(self, num_lines: int) -> None:
        written = self._pending[:num_lines]
        del self._pending[:num_lines]
        self._written_bytes += sum(len(line) for _, line, _ in written) + num_lines * _ENTRY_BYTES
        self._rows_recorded += sum(num_rows for _, _, num_rows in written)

    def _current_segment(self) -> Segment:
        if self._segment is not None and self._is_due(self._segment):
            self._finish()
        if self._segment is None:
            self._segment = Segment(self._folder, self._clock())
        return self._segment

    def _is_due(self, segment: Segment) -> bool:
        age = self._clock() - segment.started  # below 0 where the clock was set back
        return segment.num_bytes >= _MAX_SEGMENT_BYTES or not 0 <= age < self._roll_seconds

    def _finish(self) -> None:
        if self._segment is not None:
            self._segment.finish()
            self._segment = None
