"""Predicting the rows of a file with what a run left, or with a version of a model: what `mlops-hydra predict` does.

In chunks, so that the file may be larger than the memory; targets and outputs alone are kept, and only where there is a
target to measure against. Rows that cannot be read are named and kept, without a prediction. torch is not needed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlops_hydra.config.commands import PredictConfig
from mlops_hydra.data.chunk_writer import writing
from mlops_hydra.data.chunks import Chunk
from mlops_hydra.data.tables import Csv
from mlops_hydra.errors import DataError, Fault, UsageError, nearest
from mlops_hydra.evaluation.metrics import score
from mlops_hydra.model_rows import Labels, ModelColumns, are_empty, file_chunks, predict_rows
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.tracking.find import Place, find_run
from mlops_hydra.tracking.folders import MODEL
from mlops_hydra.tracking.registry import ALIASES, Registry

if TYPE_CHECKING:
    import pyarrow as pa

_MODEL: Final = re.compile(r"(?P<name>.+)@(?P<which>[A-Za-z][\w-]*|\d+)")
_RUN: Final = re.compile(r"[0-9a-f]{12,}.*")
_NAMES: Final = {"data.source.": "data."}
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
        return _bundle_of_run(text, place)
    registry = Registry(place.uri, place.output_dir, timeout_seconds=place.timeout_seconds)
    name, which = named["name"], named["which"]
    version = registry.version_of(name, int(which) if which.isdecimal() else which)
    if version is None:
        meant = tuple(f"{name}@{alias}" for alias in nearest(which, ALIASES) if alias != which)
        raise UsageError(Fault("MODEL", "there is no such model, or no such alias or version of it", text, meant))
    return load_bundle(registry.fetch(version))


def _bundle_of_run(text: str, place: Place) -> Bundle:
    try:
        run = find_run(text, place)
    except UsageError as error:
        if _RUN.fullmatch(text) or Path(text).parts[1:]:
            raise
        hint = f"if it is a model, say which version: {text}@champion, or {text}@1"
        raise UsageError([*error.faults, Fault("MODEL", hint)]) from None
    assert run.folder is not None, "it was fetched"
    if not (run.folder / MODEL).is_dir():
        why = (run.result or {}).get("unpackaged") or "it has none"
        raise UsageError(Fault("RUN", f"has no bundle to predict with: {why}", text))
    return load_bundle(run.folder / MODEL)


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
    csv = Csv(asked.data.path, asked.data.separator, asked.data.encoding, asked.data.decimal)
    columns, measured, found = ModelColumns(bundle), _Measured(bundle, asked.data.target), Predictions()
    with writing(_checked_out(asked.out, asked.data.path), csv, columns.numeric) as write:
        for chunk in file_chunks(asked.data.path, asked.chunk_rows, csv, names=_NAMES):
            _check_columns(chunk, bundle, asked)
            outputs, problems = predict_rows(bundle, columns.of(chunk), len(chunk))
            write(chunk, _added(bundle, outputs, problems))
            measured.add(chunk, outputs, first=found.num_rows)
            some = list(problems.items())[: _SHOWN_ROWS - len(found.problems)]
            found.problems |= {found.num_rows + row: text for row, text in some}
            found.num_rows += len(chunk)
            found.num_bad += len(problems)
    found.metrics, found.num_measured = measured.metrics(), measured.num_rows
    return found


def _checked_out(out: str, path: str) -> Path:
    """Raises UsageError where nothing can be written, or what is read would be lost."""
    file = Path(out)
    if file.is_dir():
        raise UsageError(Fault("out", "is a folder; name a file in it", out))
    if not file.parent.is_dir():
        raise UsageError(Fault("out", "no such folder", str(file.parent)))
    if file.resolve() == Path(path).expanduser().resolve():
        raise UsageError(Fault("out", "is the file that is read; name another", out))
    return file


def _check_columns(chunk: Chunk, bundle: Bundle, asked: PredictConfig) -> None:
    """What is wrong with a whole file rather than with a row."""
    assert bundle.schema is not None, "checked before"
    names, target = chunk.names, asked.data.target
    faults = [
        Fault(f"column {name!r}", "is missing", None, nearest(name, names))
        for name in bundle.schema.names
        if name not in names
    ]
    if target is not None and target not in names:
        faults.append(Fault("data.target", "no such column", target, nearest(target, names)))
    rule = "is there already, and the predictions would go there: rename it"
    added = (PREDICTION, PROBLEM, *_probability_names(bundle))
    if faults := faults or [Fault(f"column {name!r}", rule) for name in added if name in names]:
        raise DataError(faults)


def _probability_names(bundle: Bundle) -> list[str]:
    return [f"p_{label}" for label in bundle.classes]


def _added(bundle: Bundle, outputs: NDArray[np.float64], problems: Mapping[int, str]) -> dict[str, "pa.Array"]:
    """The new columns by name, of the same types for every chunk."""
    import pyarrow as pa

    bad = are_empty(outputs)
    if bundle.classes:
        labels = bundle.labels(np.nan_to_num(outputs)).tolist()
        kinds = {type(label) for label in bundle.classes}
        kind = {bool: pa.bool_(), int: pa.int64()}.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()
        chosen = [
            None if bad[row] else str(label) if kind == pa.string() else label for row, label in enumerate(labels)
        ]
        added = {PREDICTION: pa.array(chosen, kind)}
        added |= {name: pa.array(outputs[:, i], mask=bad) for i, name in enumerate(_probability_names(bundle))}
    else:
        added = {PREDICTION: pa.array(outputs, mask=bad)}
    return added | {PROBLEM: pa.array([problems.get(row) for row in range(len(outputs))], pa.string())}


class _Measured:
    """Targets and outputs of the rows that have both, of all chunks: the metrics are of the whole file."""

    def __init__(self, bundle: Bundle, target: str | None) -> None:
        self._task, self._labels = bundle.task, Labels(bundle, target)
        self._targets: list[NDArray[Any]] = []
        self._outputs: list[NDArray[np.float64]] = []

    @property
    def num_rows(self) -> int:
        return sum(map(len, self._targets))

    def add(self, chunk: Chunk, outputs: NDArray[np.float64], *, first: int) -> None:
        """Raises DataError for a target that is no number, or no class that the model knows."""
        labels = self._labels.read(chunk)
        if labels is None:
            return
        predicted = ~are_empty(outputs)
        if strange := np.flatnonzero(labels.strange & predicted).tolist():
            row, value = strange[0], labels.raw[strange[0]]
            where = f"column {self._labels.name!r}, row {first + row}"
            raise DataError(Fault(where, f"{labels.rule}; or leave the column out", value))
        rows = labels.known & predicted
        self._targets.append(labels.values[rows])
        self._outputs.append(outputs[rows])

    def metrics(self) -> dict[str, float]:
        if not self.num_rows:
            return {}
        return score(self._task, np.concatenate(self._targets), np.concatenate(self._outputs))


def print_predictions(found: Predictions, bundle: Bundle, out: str, console: Console) -> None:
    """How many rows, what is wrong with the first bad ones, and the metrics where there was a target."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    num_good = found.num_rows - found.num_bad
    of_all = f"of {found.num_rows:,} rows " if found.num_bad else "rows "
    say(f"{num_good:,} {of_all}predicted by {bundle.name} {bundle.fingerprint} into {out}")
    for row, text in found.problems.items():
        say(f"  row {row}: {text}")
    if found.num_bad:
        rest = found.num_bad - len(found.problems)
        more = f"; {rest:,} more than shown" if rest else ""
        say(f"{found.num_bad:,} without a prediction; column {PROBLEM!r} says why (rows count from 0{more})")
    for name, value in found.metrics.items():
        on = f"  on {found.num_measured:,} rows" if name == next(iter(found.metrics)) else ""
        say(f"  {name:<18} {value:.4f}{on}")
