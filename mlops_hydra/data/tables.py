"""Readers of tables: what the files in `conf/data/` name as `data.source`.

A reader names the full content (`digest`) and reads it (`read`); everything else about a table is decided later.
Not here: kinds, targets, splits (`table_source.py`).
"""

import csv
import gzip
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd

from mlops_hydra.data import bundled
from mlops_hydra.data.digests import digest_files, digest_frame
from mlops_hydra.data.files import existing_file
from mlops_hydra.errors import DataError, Fault

if TYPE_CHECKING:
    import pyarrow as pa


@runtime_checkable
class Reader(Protocol):
    """`digest`: 64 hex digits over the full content. `read`: all rows, with unique column names."""

    def digest(self) -> str: ...

    def read(self) -> pd.DataFrame: ...


@dataclass(frozen=True, slots=True)
class Frame:
    """A table in memory."""

    frame: pd.DataFrame

    def digest(self) -> str:
        """Over names, dtypes and every value."""
        return digest_frame(self.frame)

    def read(self) -> pd.DataFrame:
        """The frame, its columns named by text."""
        return _checked(self.frame, "data.source")


@dataclass(frozen=True, slots=True)
class Parquet:
    """A Parquet file; a named index becomes a column."""

    path: str | None

    def digest(self) -> str:
        """Over the bytes of the file."""
        return digest_files([existing_file(self.path)])

    def read(self) -> pd.DataFrame:
        """All columns.

        Raises:
            DataError: no such file, or it is no Parquet.
        """
        path = existing_file(self.path)
        with self._faults_named(path):
            frame = pd.read_parquet(path)
        return _checked(frame.reset_index() if frame.index.name is not None else frame, str(path))

    def batches(self, num_rows: int) -> "Iterator[pa.RecordBatch]":
        """The rows, `num_rows` at a time, of the types in the file; one without rows is one batch without rows.

        Raises:
            DataError: no such file, or it is no Parquet.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = existing_file(self.path)
        with self._faults_named(path), pq.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                yield pa.RecordBatch.from_pylist([], schema=file.schema_arrow)
            yield from file.iter_batches(batch_size=num_rows)

    @contextmanager
    def _faults_named(self, path: Path) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, ValueError, OSError) as error:
            rule = f"cannot be read as Parquet ({_first_line(error)}): is it another format, or cut off?"
            raise DataError(Fault(str(path), rule)) from error


@dataclass(frozen=True, slots=True)
class Csv:
    """Comma-separated text with a header line, plain or gzipped (`.gz`); numbers are read to the last bit."""

    path: str | None
    separator: str = ","
    encoding: str = "utf-8"
    decimal: str = "."

    def digest(self) -> str:
        """Over the bytes of the file, as they are on disk."""
        return digest_files([existing_file(self.path)])

    def read(self) -> pd.DataFrame:
        """All columns, kinds as pandas infers them.

        Raises:
            DataError: no such file, or its content is damaged; names the line where it is known.
        """
        path = existing_file(self.path)
        with self._faults_named(path):
            header = self._header(path)
            try:
                frame = self._parse(path)
            except (pd.errors.ParserError, pd.errors.ParserWarning):
                self._check_widths(path, header)
                raise
            if frame.iloc[:, -1].isna().any():  # pandas fills short rows up
                self._check_widths(path, header)
        return _checked(frame, str(path))

    def text_chunks(self, num_rows: int) -> Iterator[pd.DataFrame]:
        """The rows, `num_rows` at a time, every value as the text that stands in the file; missing ones are empty.

        A file without rows is one chunk without rows.

        Raises:
            DataError: as `read`.
        """
        path = existing_file(self.path)
        with self._faults_named(path):
            header, is_whole = self._header(path), False
            try:
                with self._parsed(path, chunksize=num_rows, dtype=str, na_filter=False) as chunks:
                    for chunk in _strictly(chunks):
                        if not is_whole and (chunk.iloc[:, -1] == "").any():  # pandas fills short rows up
                            self._check_widths(path, header)
                            is_whole = True
                        yield chunk.set_axis(chunk.columns.map(str), axis=1)
            except (pd.errors.ParserError, pd.errors.ParserWarning):
                self._check_widths(path, header)
                raise

    def _parse(self, path: Path) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows that are too long, and cut
            frame: pd.DataFrame = self._parsed(path, low_memory=False)
            return frame

    def _parsed(self, path: Path, **options: Any) -> Any:
        return pd.read_csv(
            path,
            sep=self.separator,
            encoding=self._encoding,
            decimal=self.decimal,
            index_col=False,
            compression="gzip" if path.suffix == ".gz" else None,
            **options,
        )

    @property
    def _encoding(self) -> str:
        """Excel starts UTF-8 files with a mark that is no part of the first name."""
        return "utf-8-sig" if self.encoding.lower() in ("utf-8", "utf8") else self.encoding

    def _open(self, path: Path) -> IO[str]:
        opener: Any = gzip.open if path.suffix == ".gz" else open
        file: IO[str] = opener(path, "rt", encoding=self._encoding, newline="")
        return file

    def _header(self, path: Path) -> list[str]:
        """The names as they are written: pandas renames a second `age` to `age.1`."""
        with self._open(path) as file:
            header = next((row for row in csv.reader(file, delimiter=self.separator) if row), [])
        if not header:
            raise DataError(Fault(str(path), "is empty: a line of column names and rows are needed"))
        repeated = [name for name, count in Counter(header).items() if count > 1]
        if repeated:
            rule = f"line 1 names {len(repeated)} column(s) twice: names must be unique"
            raise DataError(Fault(str(path), rule, ", ".join(repeated)))
        return header

    def _check_widths(self, path: Path, header: Sequence[str]) -> None:
        with self._open(path) as file:
            reader = csv.reader(file, delimiter=self.separator)
            for row in reader:
                if row and len(row) != len(header):
                    where, rule = (
                        f"{path}, line {reader.line_num}",
                        f"must have {len(header)} fields, as many as line 1",
                    )
                    hint = f" (is the separator not {self.separator!r}?)" if len(header) == 1 else ""
                    raise DataError(Fault(where, rule + hint, len(row)))

    @contextmanager
    def _faults_named(self, path: Path) -> Iterator[None]:
        if len(self.separator) != 1:
            raise DataError(Fault("data.source.separator", "must be one character", self.separator))
        try:
            yield
        except UnicodeDecodeError as error:
            rule = f"byte {error.start} is not {self.encoding}: set data.source.encoding, e.g. cp1252 or latin-1"
            raise DataError(Fault(str(path), rule)) from error
        except LookupError as error:
            raise DataError(Fault("data.source.encoding", "is no encoding that Python knows", self.encoding)) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                Fault(str(path), f"is a damaged gzip file ({_first_line(error)}): copy it again")
            ) from error
        except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, csv.Error) as error:
            rule = f"cannot be read as CSV with separator {self.separator!r} ({_first_line(error)})"
            raise DataError(Fault(str(path), rule)) from error


@dataclass(frozen=True, slots=True)
class SklearnTable:
    """A table that scikit-learn brings along: breast_cancer, wine, digits or diabetes, with the column `target`."""

    name: str

    def digest(self) -> str:
        """Over the bytes of its files."""
        return digest_files(bundled.paths_of(self.name))

    def read(self) -> pd.DataFrame:
        """The columns as scikit-learn names them; diabetes as measured, not scaled; classes by name."""
        return bundled.read(self.name)


def _checked(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """With text names and rows counted from 0.

    Raises:
        DataError: no rows, or two columns of one name.
    """
    names = [str(name) for name in frame.columns]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(Fault(where, "has columns of the same name: names must be unique", ", ".join(repeated)))
    if not len(frame):
        raise DataError(Fault(where, "has columns but no rows"))
    return frame.set_axis(names, axis=1).reset_index(drop=True)


def _strictly(chunks: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """With the warning of a row that is too long as an error, but only while pandas reads."""
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
