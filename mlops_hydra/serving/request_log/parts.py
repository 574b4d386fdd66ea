"""A finished segment of the journal -> a part of each hour that it has requests of; parts of an hour -> its one file.

Every file appears whole or not at all, and all parts of a segment before it goes. A part has its segment's name, so
doing it again after a crash comes to the same end, also where the hour has its file already: that names its parts.
Not here: when (`recorder.py`).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from mlops_hydra.atomic import replacing
from mlops_hydra.serving.request_log.conversion import Converter, Description, read_description, schema_of
from mlops_hydra.serving.request_log.journal import MODEL_START
from mlops_hydra.serving.request_log.parquet_files import (
    PARTS_KEY,
    RowGroups,
    hour_file,
    merged_parts,
    opened,
    part_files,
    parts_dir,
    tables_of,
    unified,
)

_CHUNK_BYTES: Final = 4 * 2**20  # of lines at a time; as Python objects they are about five times that


class UnreadableSegmentError(Exception):
    """The disk does not give it back."""


@dataclass
class _Parts:
    """The files that one segment becomes; they take their places when `stack` is left without an error."""

    segment: Path
    requests_dir: Path
    damaged_dir: Path
    schema: pa.Schema
    stack: ExitStack
    num_damaged: int = 0
    _groups: dict[str, RowGroups] = field(default_factory=dict)
    _aside: IO[bytes] | None = None

    def add(self, hour: str, table: pa.Table) -> None:
        if hour not in self._groups:
            folder = parts_dir(self.requests_dir, hour)
            folder.mkdir(parents=True, exist_ok=True)
            file = self.stack.enter_context(replacing(folder / f"{self.segment.stem}.parquet"))
            self._groups[hour] = self.stack.enter_context(RowGroups(file, self.schema))
        self._groups[hour].add(table)

    def put_aside(self, line: bytes) -> None:
        if self._aside is None:
            self.damaged_dir.mkdir(exist_ok=True)
            self._aside = self.stack.enter_context(replacing(self.damaged_dir / self.segment.name))
        self.num_damaged += 1
        self._aside.write(line)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Lines of a segment that are in no part."""

    num_torn: int
    num_damaged: int


def convert(segment: Path, requests_dir: Path, damaged_dir: Path) -> LeftOut:
    """Write the parts of a segment; the segment stays.

    Raises:
        UnreadableSegmentError: nothing was written.
        TrackingError, OSError: the disk takes no more; nothing was written.
    """
    converter, num_torn = Converter(), 0
    with ExitStack() as stack:
        parts = _Parts(segment, requests_dir, damaged_dir, schema_of(_descriptions(segment)), stack)
        for lines in _chunks(segment):
            if not lines[-1].endswith(b"\n"):  # its writer was killed
                num_torn += 1
                del lines[-1]
            for hour, table in converter.convert(lines, parts.put_aside):
                parts.add(hour, table)
    return LeftOut(num_torn, parts.num_damaged)


def _chunks(segment: Path) -> Iterator[list[bytes]]:
    try:
        with segment.open("rb") as file:
            while lines := file.readlines(_CHUNK_BYTES):
                yield lines
    except OSError as error:
        raise UnreadableSegmentError(error.strerror or str(error)) from error


def _descriptions(segment: Path) -> Iterator[Description]:
    """Also those that come late: the columns of a file are known before its first row is written."""
    for lines in _chunks(segment):
        for line in lines:
            if line.startswith(MODEL_START) and (description := read_description(line)):
                yield description


def merge(requests_dir: Path, hour: str, between: Callable[[], None]) -> None:
    """Make one file of the parts of an hour, and of its file if there is one; then remove the parts.

    Args:
        between: called every now and then, for hours can be large. It must not merge.

    Raises:
        DataError: a file is damaged; nothing has changed.
        TrackingError, OSError: the disk takes no more; nothing has changed.
    """
    target, parts = hour_file(requests_dir, hour), part_files(requests_dir, hour)
    merged = merged_parts(_schema(target)) if target.exists() else set()
    new = [part for part in parts if part.stem not in merged]
    if new:
        sources = [*([target] if target.exists() else []), *new]
        names = sorted(merged.union(part.stem for part in new))
        schema = unified(map(_schema, sources)).with_metadata({PARTS_KEY: json.dumps(names)})
        with replacing(target) as file, RowGroups(file, schema) as groups:
            for source in sources:
                with opened(source) as opened_file:
                    for table in tables_of(source, opened_file):
                        groups.add(table)
                        between()
    for part in parts:
        part.unlink()
    with suppress(OSError):  # a part came meanwhile
        parts_dir(requests_dir, hour).rmdir()


def _schema(path: Path) -> pa.Schema:
    with opened(path) as file:
        return file.schema_arrow
