"""Predicting the rows of a file with what a run left, or with a version of a model: what `mlops-hydra predict` does.

In chunks, so that the file may be larger than the memory. Rows that cannot be read are named and kept, without a
prediction. torch is not needed.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from mlops_hydra.atomic import replacing
from mlops_hydra.config.commands import PredictConfig
from mlops_hydra.data.files import existing_file
from mlops_hydra.data.frames import as_array, as_columns
from mlops_hydra.data.values import read_numbers, read_values
from mlops_hydra.errors import DataError, Fault, RequestError, UsageError
from mlops_hydra.evaluation.metrics import score
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.graph import one_line
from mlops_hydra.tracking.find import Place, find_run
from mlops_hydra.tracking.folders import MODEL
from mlops_hydra.tracking.registry import Registry

_MODEL: Final = re.compile(r"(?P<name>.+)@(?P<which>[A-Za-z][\w-]*|\d+)")
_SHOWN_ROWS: Final = 10
PREDICTION: Final = "prediction"
PROBLEM: Final = "problem"


@dataclass(slots=True)
class Predictions:
    """What came of a file. `problems` says what is wrong with the first of the bad rows, counted from 0."""

    num_rows: int = 0
    num_bad: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    num_measured: int = 0


def find_bundle(text: str, place: Place) -> Bundle:
    """What a person calls a run, or a version of a model as `name@champion` or `name@3`.

    Raises:
        UsageError: there is none, or the run has no bundle.
        BundleError: it was changed.
    """
    named = _MODEL.fullmatch(text)
    if named is None:
        run = find_run(text, place)
        assert run.folder is not None, "it was fetched"
        if not (run.folder / MODEL).is_dir():
            why = (run.result or {}).get("unpackaged") or "it has none"
            raise UsageError(Fault("RUN", f"has no bundle to predict with: {why}", text))
        return load_bundle(run.folder / MODEL)
    registry = Registry(place.uri, place.output_dir, timeout_seconds=place.timeout_seconds)
    which = named["which"]
    version = registry.version_of(named["name"], int(which) if which.isdigit() else which)
    if version is None:
        raise UsageError(Fault("MODEL", "there is no such model, alias or version", text))
    return load_bundle(registry.fetch(version))


def predict_file(bundle: Bundle, asked: PredictConfig) -> Predictions:
    """Write the rows of `data.path` with their predictions to `out`, which is there whole or not at all.

    Raises:
        RequestError: no such file, columns are missing, or the model takes no tables.
    """
    if bundle.schema is None:
        raise UsageError(Fault("MODEL", "takes tensors, not tables: use load_bundle(...) in Python", bundle.name))
    if asked.data.path is None or asked.out is None:
        missing = "data.path" if asked.data.path is None else "out"
        raise UsageError(Fault(missing, "is needed: predict RUN data.path=in.csv out=out.csv"))
    target = asked.data.target or bundle.schema.target
    found, measured = Predictions(), _Measured(bundle, target)
    with _writer(Path(asked.out)) as write:
        for chunk in _chunks(Path(asked.data.path), asked.chunk_rows):
            _check_columns(chunk, bundle, asked)
            outputs, problems = _predicted(bundle, chunk, found.num_rows)
            write(_with_predictions(chunk, bundle, outputs, problems))
            measured.add(chunk, outputs)
            found.num_rows += len(chunk)
            found.num_bad += len(problems)
            found.problems |= dict(list(problems.items())[: _SHOWN_ROWS - len(found.problems)])
    found.metrics, found.num_measured = measured.metrics(), measured.num_rows
    return found


def _check_columns(chunk: pd.DataFrame, bundle: Bundle, asked: PredictConfig) -> None:
    """What is wrong with a whole file rather than with a row."""
    assert bundle.schema is not None, "checked before"
    missing = [name for name in bundle.schema.names if name not in chunk.columns]
    if missing:
        bundle.outputs(as_columns(chunk.iloc[:0]))  # which says so
    added = [name for name in (PREDICTION, PROBLEM, *_probability_names(bundle)) if name in chunk.columns]
    if added:
        raise DataError([Fault(f"column {name!r}", "is there already; predictions would go there") for name in added])
    if asked.data.target is not None and asked.data.target not in chunk.columns:
        raise DataError(Fault("data.target", "no such column", asked.data.target))


def _probability_names(bundle: Bundle) -> list[str]:
    return [f"p_{label}" for label in bundle.classes]


def _predicted(bundle: Bundle, chunk: pd.DataFrame, first: int) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Outputs, NaN for bad rows, and what is wrong with those by their number in the file."""
    columns = as_columns(chunk)
    try:
        return bundle.outputs(columns), {}
    except DataError:
        pass
    problems = _bad_rows(bundle, columns)
    good = np.array([row not in problems for row in range(len(chunk))], dtype=bool)
    shape = (len(chunk), len(bundle.classes)) if bundle.classes else (len(chunk),)
    outputs = np.full(shape, np.nan)
    if good.any():
        outputs[good] = bundle.outputs({name: values[good] for name, values in columns.items()})
    return outputs, {first + row: text for row, text in problems.items()}


def _bad_rows(bundle: Bundle, columns: Mapping[str, NDArray[Any]]) -> dict[int, str]:
    """Column by column, and value by value where a column cannot be read at once."""
    assert bundle.schema is not None, "checked before"
    problems: dict[int, list[str]] = {}
    for feature in bundle.schema.features:
        values = columns[feature.name]
        try:
            read_values(values, feature.kind, feature.name)
        except DataError:
            for row in range(len(values)):
                try:
                    read_values(values[row : row + 1], feature.kind, feature.name)
                except DataError as error:
                    fault = error.faults[0]
                    problems.setdefault(row, []).append(f"column {feature.name!r} {fault.rule}, got {fault.value!r}")
    return {row: "; ".join(texts) for row, texts in sorted(problems.items())}


def _with_predictions(
    chunk: pd.DataFrame, bundle: Bundle, outputs: NDArray[np.float64], problems: Mapping[int, str]
) -> pd.DataFrame:
    bad = np.isnan(outputs).any(axis=1) if bundle.classes else np.isnan(outputs)
    if bundle.classes:
        labels = bundle.labels(np.nan_to_num(outputs)).astype(object)
        labels[bad] = None
        added: dict[str, Any] = {PREDICTION: pd.Series(labels, index=chunk.index, dtype=_dtype(bundle))}
        added |= {name: outputs[:, place] for place, name in enumerate(_probability_names(bundle))}
    else:
        added = {PREDICTION: outputs}
    texts = np.full(len(chunk), None, dtype=object)
    texts[bad] = list(problems.values())
    return chunk.assign(**added, **{PROBLEM: pd.Series(texts, index=chunk.index, dtype="string")})


def _dtype(bundle: Bundle) -> str:
    """The same for every chunk, whether or not a row of it is bad."""
    kinds = {type(label) for label in bundle.classes}
    return {bool: "boolean", int: "Int64"}.get(kinds.pop(), "string") if len(kinds) == 1 else "string"


class _Measured:
    """Targets and outputs of the rows that have both, of all chunks: the metrics are of the whole file."""

    def __init__(self, bundle: Bundle, target: str | None) -> None:
        self._bundle, self._target = bundle, target
        self._targets: list[NDArray[Any]] = []
        self._outputs: list[NDArray[np.float64]] = []

    @property
    def num_rows(self) -> int:
        return sum(map(len, self._targets))

    def add(self, chunk: pd.DataFrame, outputs: NDArray[np.float64]) -> None:
        """Raises DataError for a target that is no number, or no class that the model knows."""
        if self._target is None or self._target not in chunk.columns:
            return
        rows = chunk[self._target].notna().to_numpy() & ~np.isnan(outputs.reshape(len(outputs), -1)).any(axis=1)
        values = as_array(chunk.loc[rows, self._target])
        if self._bundle.classes:
            places = {str(label): place for place, label in enumerate(self._bundle.classes)}
            texts = read_values(values, "categorical", self._target)
            strange = [text for text in texts if text not in places]
            if strange:
                rule = f"is no class of the model: {', '.join(places)}"
                raise DataError(Fault(f"column {self._target!r}", rule, strange[0]))
            values = np.array([places[text] for text in texts], dtype=np.int64)
        else:
            values = read_numbers(values, self._target)
        self._targets.append(values)
        self._outputs.append(outputs[rows])

    def metrics(self) -> dict[str, float]:
        if not self.num_rows:
            return {}
        return score(self._bundle.task, np.concatenate(self._targets), np.concatenate(self._outputs))


def _chunks(path: Path, num_rows: int) -> Iterator[pd.DataFrame]:
    """Raises DataError: no such file, or it cannot be read."""
    path = existing_file(str(path))
    try:
        if path.suffix in (".parquet", ".pq"):
            yield from _parquet_chunks(path, num_rows)
        else:
            with pd.read_csv(path, chunksize=num_rows, index_col=False, low_memory=False) as reader:
                for chunk in reader:
                    yield chunk.rename(columns=str)
    except RequestError:
        raise
    except (ValueError, OSError) as error:  # pandas' errors, and pyarrow's, are ValueErrors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(Fault(str(path), f"cannot be read: {reason}")) from error


def _parquet_chunks(path: Path, num_rows: int) -> Iterator[pd.DataFrame]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=num_rows):
            yield batch.to_pandas(types_mapper=pd.ArrowDtype).rename(columns=str)


class _Write(Protocol):
    def __call__(self, chunk: pd.DataFrame) -> None: ...


@contextmanager
def _writer(path: Path) -> Iterator[_Write]:
    """What appends chunks to a file that takes the place of `path` at the end."""
    if not path.parent.is_dir():
        raise UsageError(Fault("out", "no such folder", str(path.parent)))
    is_parquet = path.suffix in (".parquet", ".pq")
    with replacing(path) as file:
        if is_parquet:
            yield from _parquet_writer(file)
            return
        is_first = True

        def write(chunk: pd.DataFrame) -> None:
            nonlocal is_first
            chunk.to_csv(file, index=False, header=is_first, lineterminator="\n")
            is_first = False

        yield write


def _parquet_writer(file: Any) -> Iterator[_Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def write(chunk: pd.DataFrame) -> None:
        nonlocal writer
        try:
            table = pa.Table.from_pandas(chunk, preserve_index=False, schema=writer.schema if writer else None)
        except (pa.ArrowException, TypeError, ValueError) as error:
            rule = f"a column changes its type along the file ({one_line(error)}): write CSV, or raise chunk_rows"
            raise DataError(Fault("out", rule)) from error
        if writer is None:
            writer = pq.ParquetWriter(file, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def print_predictions(found: Predictions, bundle: Bundle, out: str, console: Console) -> None:
    """How many rows, what is wrong with the first bad ones, and the metrics where there was a target."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"{found.num_rows:,} rows predicted by {bundle.name} {bundle.fingerprint} into {out}")
    for row, text in found.problems.items():
        say(f"  row {row}: {text}")
    if found.num_bad:
        rest = found.num_bad - len(found.problems)
        say(f"{found.num_bad:,} rows have no prediction" + (f" ({rest:,} more than shown)" if rest else ""))
    for name, value in found.metrics.items():
        say(
            f"  {name:<18} {value:.4f}"
            + (f"  on {found.num_measured:,} rows" if name == next(iter(found.metrics)) else "")
        )
