"""What was predicted, read back: Parquet files by hour, whole hours and the parts of the latest ones.

Read while the recorder works: each row comes once. Not here: writing (`recorder.py`), and what the rows say.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from mlops_hydra.errors import DataError, Fault, UsageError, nearest
from mlops_hydra.serving.request_log.parquet_files import (
    FEATURE,
    FIXED,
    conformed,
    hours_of,
    opened_hour,
    tables_of,
    unified,
)

_HOUR: Final = timedelta(hours=1)


def read_requests(
    folder: Path,
    *,
    columns: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[pa.Table]:
    """The rows of [since, until), hour by hour, each hour in one or several tables; all of one schema.

    Args:
        folder: the service's `requests`. None there: no rows.
        columns: in this order; all by default. One of a feature that no file has is of the type null, one that has
            several types in the files is text.

    Raises:
        UsageError: a column that no request log has, or a time without a time zone.
        DataError: a file is damaged; names it.
    """
    _check(columns, since, until)
    hours = [hour for hour in hours_of(folder) if _overlaps(hour, since, until)]
    return _read(folder, hours, columns, (since, until))


def read_as_logged(
    folder: Path, columns: Sequence[str], *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[pa.Table]:
    """The rows of [since, until), with those of the columns that were logged at that time; missing is not unlogged.

    Raises:
        UsageError, DataError: as `read_requests`.
    """
    _check(columns, since, until)
    for hour in hours_of(folder):
        if not _overlaps(hour, since, until):
            continue
        with opened_hour(folder, hour) as files:
            for path, file in files:
                present = set(file.schema_arrow.names)
                names = [name for name in dict.fromkeys([*columns, "time"]) if name in present]
                for batch in tables_of(path, file, names):
                    if len(table := _within(batch, since, until)):
                        yield table


def _check(columns: Sequence[str] | None, since: datetime | None, until: datetime | None) -> None:
    faults = [
        Fault("columns", f"must be of the request log ({FEATURE}NAME: a feature)", name, nearest(name, FIXED.names))
        for name in columns or ()
        if name not in FIXED.names and not name.startswith(FEATURE)
    ]
    faults += [
        Fault(path, "must have a time zone", moment)
        for path, moment in (("since", since), ("until", until))
        if moment is not None and moment.tzinfo is None
    ]
    if faults:
        raise UsageError(faults)


def _start(hour: str) -> datetime:
    return datetime.fromisoformat(f"{hour}:00+00:00")


def _overlaps(hour: str, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or _start(hour) + _HOUR > since) and (until is None or _start(hour) < until)


def _schema(folder: Path, hours: Sequence[str]) -> pa.Schema:
    schemas = []
    for hour in hours:
        with opened_hour(folder, hour) as files:
            schemas += [file.schema_arrow for _, file in files]
    return unified(schemas)


def _read(
    folder: Path, hours: Sequence[str], columns: Sequence[str] | None, span: tuple[datetime | None, datetime | None]
) -> Iterator[pa.Table]:
    if not hours:
        return
    schema = _schema(folder, hours)
    if columns is not None:
        known = {field.name: field.type for field in schema}
        schema = pa.schema([(name, known.get(name, pa.null())) for name in columns])
    for hour in hours:
        yield from _read_hour(folder, hour, schema, span)


def _read_hour(
    folder: Path, hour: str, schema: pa.Schema, span: tuple[datetime | None, datetime | None]
) -> Iterator[pa.Table]:
    with opened_hour(folder, hour) as files:
        for path, file in files:
            present = set(file.schema_arrow.names)
            names = [name for name in dict.fromkeys([*schema.names, "time"]) if name in present]
            for batch in tables_of(path, file, names):
                table = _within(batch, *span)
                if len(table):
                    yield _conformed(table, schema, path)


def _within(table: pa.Table, since: datetime | None, until: datetime | None) -> pa.Table:
    time = table.column("time")
    if since is not None:
        table = table.filter(pc.greater_equal(time, _scalar(since)))
        time = table.column("time")
    if until is not None:
        table = table.filter(pc.less(time, _scalar(until)))
    return table


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment.astimezone(UTC), FIXED.field("time").type)


def _conformed(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    try:
        return conformed(table, schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        rule = "has another type in a column than the files before it: it came while they were read; read them again"
        raise DataError(Fault(str(path), rule)) from error
