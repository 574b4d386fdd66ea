"""The files of the request log: their columns, how several become one, and which of them belong to an hour.

    2026-11-25T12.parquet            an hour that is over; its metadata name the parts that it was made of
    2026-11-25T12.parts/NAME.parquet what a segment of the journal holds of an hour

A part that its hour's file names counts as gone: the recorder died before it could remove it. Who writes is
`recorder.py`, who reads `reader.py`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_hydra.data.values import to_text
from mlops_hydra.errors import DataError, Fault

PARTS_KEY: Final = b"mlops_hydra.parts"
FEATURE: Final = "features."
FIXED: Final = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),
        ("request_id", pa.string()),
        ("row", pa.int32()),
        ("user_id", pa.string()),
        ("variant", pa.string()),
        ("assigned_by", pa.string()),
        ("model_version", pa.string()),
        ("fingerprint", pa.string()),
        ("lineage", pa.string()),
        ("prediction", pa.string()),
        ("value", pa.float64()),
        ("confidence", pa.float64()),
    ]
)
BATCH_ROWS: Final = 20_000
_BATCH_BYTES: Final = 32 * 2**20
_HOUR: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}")
_TRIES: Final = 20
_UNIQUE: Final = frozenset({"request_id", "user_id"})


def type_of(kind: str) -> pa.DataType:
    """Of a feature's column."""
    return {"numeric": pa.float64(), "boolean": pa.bool_()}.get(kind, pa.string())


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """All columns of all; one that has several types is text."""
    types: dict[str, pa.DataType] = {field.name: field.type for field in FIXED}
    for schema in schemas:
        for field in schema:
            known = types.setdefault(field.name, field.type)
            if field.name not in FIXED.names and known != field.type:
                types[field.name] = field.type if pa.types.is_null(known) else _common(known, field.type)
    return pa.schema(list(types.items()))


def _common(known: pa.DataType, other: pa.DataType) -> pa.DataType:
    return known if pa.types.is_null(other) else pa.string()


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its order; those that the table lacks are missing values."""
    names = set(table.column_names)
    columns = [
        _as(table.column(field.name), field.type) if field.name in names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> Any:
    if column.type == kind:
        return column
    if kind == pa.string():  # in the spelling that categories have
        return pa.array([to_text(value) for value in column.to_pylist()], kind)
    return column.cast(kind)


class RowGroups:
    """Writes tables to a Parquet file, many rows at a time. As a context: the file is whole when it ends well."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._num_rows = self._num_bytes = 0
        texts = [field.name for field in schema if field.type == pa.string() and field.name not in _UNIQUE]
        numbers = [field.name for field in schema if field.type == pa.float64()]
        self._writer = pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=texts, use_byte_stream_split=numbers
        )

    def add(self, table: pa.Table) -> None:
        """Rows of whatever columns."""
        table = conformed(table, self._schema)
        self._pending.append(table)
        self._num_rows += len(table)
        self._num_bytes += table.nbytes
        if self._num_rows >= BATCH_ROWS or self._num_bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._num_rows:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending, self._num_rows, self._num_bytes = [], 0, 0

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
                self._writer.close()
        finally:
            with suppress(Exception):  # it would close itself later, when the file is closed
                self._writer.close()
            self._writer.is_open = False


def hours_of(folder: Path) -> list[str]:
    """The hours that have files, oldest first."""
    names = {path.stem for ending in (".parquet", ".parts") for path in folder.glob(f"*{ending}")}
    return sorted(name for name in names if _HOUR.fullmatch(name))


def hour_file(folder: Path, hour: str) -> Path:
    """Of an hour that is over."""
    return folder / f"{hour}.parquet"


def parts_dir(folder: Path, hour: str) -> Path:
    """Where the parts of an hour are."""
    return folder / f"{hour}.parts"


def part_files(folder: Path, hour: str) -> list[Path]:
    """The parts that are there, merged ones too."""
    with suppress(FileNotFoundError):  # a folder that is removed while it is read
        return sorted(path for path in parts_dir(folder, hour).glob("*.parquet") if not path.name.startswith("."))
    return []


def merged_parts(schema: pa.Schema) -> set[str]:
    """The names of the parts that a file was made of."""
    return set(json.loads((schema.metadata or {}).get(PARTS_KEY, b"[]")))


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Raises DataError where the file is damaged, FileNotFoundError where there is none."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    with file:
        yield file


def tables_of(path: Path, file: pq.ParquetFile, names: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a file, some at a time. Raises DataError where it is damaged."""
    batches = file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        if batch is None:
            return
        yield pa.Table.from_batches([batch])


def damaged(path: Path, error: Exception) -> DataError:
    """Names the file."""
    return DataError(Fault(str(path), f"is damaged ({' '.join(str(error).split())[:200]})"))


@contextmanager
def opened_hour(folder: Path, hour: str) -> Iterator[list[tuple[Path, pq.ParquetFile]]]:
    """The files that together hold each row of an hour once, while the recorder may be merging them.

    Raises:
        DataError: one is damaged.
    """
    with ExitStack() as stack:
        yield _open_all(folder, hour, stack)


def _open_all(folder: Path, hour: str, stack: ExitStack) -> list[tuple[Path, pq.ParquetFile]]:
    for _ in range(_TRIES):
        with ExitStack() as attempt:
            files: list[tuple[Path, pq.ParquetFile]] = []
            merged: set[str] = set()
            parts = part_files(folder, hour)
            whole = hour_file(folder, hour)
            with suppress(FileNotFoundError):
                files.append((whole, attempt.enter_context(opened(whole))))
                merged = merged_parts(files[0][1].schema_arrow)
            try:
                files += [(part, attempt.enter_context(opened(part))) for part in parts if part.stem not in merged]
            except FileNotFoundError:  # merged and removed since
                continue
            stack.push(attempt.pop_all())
            return files
    raise DataError(Fault(str(parts_dir(folder, hour)), "changes all the time: files were gone before they were read"))
