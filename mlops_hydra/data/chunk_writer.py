"""A file of rows and what was added to them, written chunk by chunk as it was read: CSV, also gzipped, or Parquet.

It takes its place when it is whole. Not here: reading (`chunks.py`).
"""

import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from mlops_hydra.atomic import replacing
from mlops_hydra.data.chunks import PARQUET, Chunk
from mlops_hydra.data.tables import Csv
from mlops_hydra.errors import DataError, Fault

if TYPE_CHECKING:
    import pyarrow as pa


class Write(Protocol):
    """Appends the rows of a chunk, with new columns [n] by name; of the same types every time."""

    def __call__(self, chunk: Chunk, added: Mapping[str, "pa.Array"]) -> None: ...


@contextmanager
def writing(path: Path, csv: Csv, numeric: list[str]) -> Iterator[Write]:
    """What appends chunks, with the added columns, to a file that takes the place of `path` when the block ends well.

    Args:
        csv: how a CSV file is written, but for its encoding, which is utf-8.
        numeric: columns that are numbers in a Parquet file, also where they come from text.

    Raises:
        TrackingError: the disk does not take it.
    """
    with replacing(path) as file:
        if path.suffix in PARQUET:
            yield from _parquet_writer(file, numeric)
        elif path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield _csv_writer(cast("IO[bytes]", packed), csv)
        else:
            yield _csv_writer(file, csv)


def _csv_writer(file: IO[bytes], csv: Csv) -> Write:
    import pandas as pd

    is_first = True

    def write(chunk: Chunk, added: Mapping[str, "pa.Array"]) -> None:
        nonlocal is_first
        frame = _with(chunk.table, added).to_pandas(types_mapper=pd.ArrowDtype)
        frame.to_csv(file, index=False, header=is_first, sep=csv.separator, decimal=csv.decimal, lineterminator="\n")
        is_first = False

    return write


def _parquet_writer(file: IO[bytes], numeric: list[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def write(chunk: Chunk, added: Mapping[str, "pa.Array"]) -> None:
        nonlocal writer
        table = _with(chunk.typed(numeric), added)
        try:
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(
                Fault("out", f"cannot be written as Parquet ({' '.join(str(error).split())}): write CSV")
            ) from error

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def _with(table: "pa.Table", added: Mapping[str, "pa.Array"]) -> "pa.Table":
    for name, values in added.items():
        table = table.append_column(name, values)
    return table
