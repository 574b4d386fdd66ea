"""A bundle: one folder that predicts, without the user's code, pickle, torch or a configuration.

`load_bundle` compares every file with the manifest and lets the graph predict its golden rows again; what differs is
refused. Needs NumPy and onnxruntime alone. Not here: writing one (`bundle_writer.py`).

Shapes: n rows.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.data.encoding import FIRST_CATEGORY, ClassLabel, FeatureSchema, encode
from mlops_hydra.errors import BundleError, DataError, Fault, UsageError, nearest
from mlops_hydra.packaging.about import BUNDLE, MAX_JSON_BYTES, PROFILE, About, bundle_folder, read_object
from mlops_hydra.packaging.golden import ARRAYS, GOLDEN, Golden, read_golden
from mlops_hydra.packaging.graph import DTYPES, Graph, Input, one_line, open_graph
from mlops_hydra.packaging.schema_file import read_schema
from mlops_hydra.packaging.seal import Sealed, open_sealed
from mlops_hydra.packaging.tensors import LENGTH_BYTES, MAX_HEADER_BYTES, header_length, read_header

GRAPH, MODEL, SCHEMA = "graph.json", "model.onnx", "schema.json"
WEIGHTS, METRICS, VERDICTS = "weights.safetensors", "metrics.json", "verdicts.json"
LINEAGE: Final = "lineage.json"
REQUIRED: Final = (BUNDLE, GRAPH, MODEL, WEIGHTS, METRICS, VERDICTS, LINEAGE, PROFILE)
_MAX_MODEL_BYTES: Final = 2**31  # what protobuf can hold


@dataclass(frozen=True)
class Bundle:
    """A model that is ready to predict, and what is known of it.

    `lineage` is 12 hex digits over config, data and code. `schema` is None for a model of torch Datasets.
    """

    folder: Path
    name: str
    fingerprint: str
    lineage: str
    run_id: str | None
    task: Task
    classes: tuple[ClassLabel, ...]
    inputs: tuple[Input, ...]
    schema: FeatureSchema | None
    metrics: Mapping[str, float | None]
    verdict: str
    golden: Golden = field(repr=False)
    graph: Graph = field(repr=False)

    def outputs(self, rows: Any) -> NDArray[np.float64]:
        """Probabilities [n, classes], or values [n] in the units of the target.

        Args:
            rows: columns by name (lists or NumPy arrays), a list of rows, or a pandas DataFrame; for a model of torch
                Datasets an array [n, ...], or several as a tuple or by name.

        Raises:
            DataError: a column is missing, or a value is not of its kind.
            UsageError: `rows` is nothing of the kind.
        """
        if self.schema is None:
            arrays, num_rows = _as_arrays(rows, self.inputs)
            return self.graph.run(arrays, num_rows)
        encoded = encode(_as_columns(rows, self.schema), self.schema)
        return self.graph.run({"numeric": encoded.numeric, "codes": encoded.codes}, len(encoded.numeric))

    def predict(self, rows: Any) -> NDArray[Any]:
        """The most probable class of each row [n], or values [n]; for `rows` see `outputs`."""
        outputs = self.outputs(rows)
        return self.labels(outputs) if self.classes else outputs

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """Probabilities [n, classes], in the order of `classes`.

        Raises:
            UsageError: this is a regression.
        """
        if not self.classes:
            raise UsageError(Fault("predict_proba", "is for classes; this model predicts a value"))
        return self.outputs(rows)

    def labels(self, probabilities: NDArray[np.float64]) -> NDArray[Any]:
        """The most probable class of each row [n]; of several the first."""
        kinds = {type(label) for label in self.classes}
        labels = np.array(self.classes, dtype=object if len(kinds) > 1 else None)
        chosen: NDArray[Any] = labels[probabilities.argmax(axis=1)]
        return chosen


def load_bundle(path: str | Path, *, num_threads: int = 1) -> Bundle:
    """The bundle in a folder, or in the folder `bundle` of a packaged model.

    Args:
        num_threads: that a prediction uses; more than one pays for large models and batches only.

    Raises:
        BundleError: it is none, it was changed, or it does not predict what it did when it was packaged.
    """
    folder = bundle_folder(path)
    sealed = open_sealed(folder)
    try:
        return _load(sealed, num_threads)
    except BundleError as error:
        where = str(error).startswith(str(folder))
        raise BundleError(str(error) if where else f"{folder}: {error}") from error


def _load(sealed: Sealed, num_threads: int) -> Bundle:
    for name in REQUIRED:
        if name not in sealed.entries:
            raise BundleError(f"{name} is missing")
    about = About.of(sealed)
    _check_weights(sealed)
    contents = {name: read_object(sealed, name) for name in (METRICS, VERDICTS, LINEAGE, PROFILE)}
    inputs = _read_inputs(read_object(sealed, GRAPH))
    schema = None
    if SCHEMA in sealed.entries:
        schema = read_schema(sealed.read(SCHEMA, max_bytes=MAX_JSON_BYTES), about.task, about.classes)
        _check_fit(schema, inputs)
    num_classes = len(about.classes)
    model = sealed.read(MODEL, max_bytes=_MAX_MODEL_BYTES)
    bundle = Bundle(
        folder=sealed.folder,
        name=about.name,
        fingerprint=about.fingerprint,
        lineage=about.lineage,
        run_id=about.run_id,
        task=about.task,
        classes=about.classes,
        inputs=inputs,
        schema=schema,
        metrics=_checked_metrics(contents[METRICS]),
        verdict=about.verdict,
        golden=read_golden(sealed, schema, inputs, num_classes),
        graph=open_graph(model, inputs, num_classes=num_classes, num_threads=num_threads),
    )
    for name in sealed.entries.keys() - {*REQUIRED, SCHEMA, GOLDEN, ARRAYS}:
        sealed.check(name, start_bytes=0)
    _try(bundle)
    return bundle


def _try(bundle: Bundle) -> None:
    """Golden rows are predicted as they were, and the graph takes the last category of each column."""
    try:
        outputs = bundle.outputs(bundle.golden.rows)
    except BundleError:
        raise
    except Exception as error:  # whatever a crafted value breaks
        raise BundleError(f"golden rows cannot be predicted: {one_line(error)}") from error
    bundle.golden.check(outputs)
    if bundle.schema is not None and bundle.schema.categorical_features:
        last = [[FIRST_CATEGORY - 1 + len(f.categories) for f in bundle.schema.categorical_features]]
        numeric = np.full((1, len(bundle.schema.numeric_names)), np.nan)
        bundle.graph.run({"numeric": numeric, "codes": np.array(last, dtype=np.int64)}, 1)


def _checked_metrics(data: Mapping[str, Any]) -> dict[str, float | None]:
    if not all(value is None or type(value) in (int, float) for value in data.values()):
        raise BundleError(f"{METRICS}: a metric is a number, or null")
    return dict(data)


def _read_inputs(data: Mapping[str, Any]) -> tuple[Input, ...]:
    try:
        inputs = tuple(Input(item["name"], item["dtype"], tuple(item["shape"])) for item in data["inputs"])
        fits = all(
            type(item.name) is str and item.dtype in DTYPES and all(type(size) is int for size in item.shape)
            for item in inputs
        )
    except (TypeError, KeyError) as error:
        raise BundleError(f"{GRAPH}: cannot be read") from error
    if not inputs or not fits or len({item.name for item in inputs}) != len(inputs):
        raise BundleError(f"{GRAPH}: cannot be read")
    return inputs


def table_inputs(schema: FeatureSchema) -> tuple[Input, Input]:
    """What the graph of a table takes: what `encode` gives."""
    return (
        Input("numeric", "float64", (len(schema.numeric_names),)),
        Input("codes", "int64", (len(schema.categorical_names),)),
    )


def _check_fit(schema: FeatureSchema, inputs: Sequence[Input]) -> None:
    if tuple(inputs) != table_inputs(schema):
        raise BundleError(f"{SCHEMA}: does not give what the graph takes")


def _check_weights(sealed: Sealed) -> None:
    """They are not read to predict, but who rebuilds the model from them should find what was written."""
    num_bytes = sealed.entries[WEIGHTS].num_bytes
    start = sealed.check(WEIGHTS, start_bytes=min(num_bytes, LENGTH_BYTES + MAX_HEADER_BYTES))
    try:
        length = header_length(start[:LENGTH_BYTES], num_bytes)
        read_header(start[LENGTH_BYTES : LENGTH_BYTES + length], num_bytes - LENGTH_BYTES - length)
    except BundleError as error:
        raise BundleError(f"{WEIGHTS}: {error}") from error


def _as_columns(rows: Any, schema: FeatureSchema) -> Mapping[str, Any]:
    """Columns by name, each of n values."""
    if isinstance(rows, Mapping):
        if not {type(values) for values in rows.values()} <= {list, np.ndarray}:
            _refuse_scalars(rows, schema)
        return rows
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        from mlops_hydra.data.frames import as_columns

        return as_columns(rows)
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        rule = "must be columns by name, a list of rows by name, or a DataFrame"
        raise UsageError(Fault("rows", rule, type(rows).__name__))
    return _transposed(rows, schema)


def _refuse_scalars(rows: Mapping[str, Any], schema: FeatureSchema) -> None:
    """A text has a length, too, and would be taken for a column of letters."""
    for name in schema.names:
        if name in rows and (isinstance(rows[name], str | bytes) or not hasattr(rows[name], "__len__")):
            rule = "must be a list of values; give one row as a list of rows, [row]"
            raise UsageError(Fault(f"column {name!r}", rule, rows[name]))


def _transposed(rows: Sequence[Mapping[str, Any]], schema: FeatureSchema) -> dict[str, list[Any]]:
    try:
        return {name: [row[name] for row in rows] for name in schema.names}
    except KeyError:
        first = {name: i for i, row in reversed(list(enumerate(rows))) for name in schema.names if name not in row}
        faults = [
            Fault(f"column {name!r}, row {first[name]}", "is missing", None, nearest(name, rows[first[name]]))
            for name in schema.names
            if name in first
        ]
        raise DataError(faults) from None


def _as_arrays(rows: Any, inputs: Sequence[Input]) -> tuple[dict[str, NDArray[Any]], int]:
    """One array [n, ...] for each input, and n."""
    if isinstance(rows, Mapping):
        given = {item.name: rows[item.name] for item in inputs if item.name in rows}
    elif len(inputs) == 1:
        given = {inputs[0].name: rows}
    else:
        given = {item.name: part for item, part in zip(inputs, rows, strict=False)} if isinstance(rows, tuple) else {}
    if len(given) != len(inputs):
        names = ", ".join(item.name for item in inputs)
        raise UsageError(Fault("rows", f"must be arrays for {names}, in this order or by name"))
    arrays = {item.name: _as_array(given[item.name], item) for item in inputs}
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1:
        raise DataError(Fault("rows", "arrays differ in their number of rows", sorted(lengths)))
    return arrays, lengths.pop()


def _as_array(values: Any, item: Input) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(Fault(f"rows, {item.name}", f"is no array: {error}")) from error
    if array.shape[1:] != item.shape or array.ndim == 0:
        needed = f"must have the shape {['n', *item.shape]}"
        raise DataError(Fault(f"rows, {item.name}", needed, list(array.shape)))
    if not np.can_cast(array.dtype, item.dtype, "same_kind"):
        raise DataError(Fault(f"rows, {item.name}", f"must be {item.dtype}", array.dtype.name))
    return array.astype(item.dtype, copy=False)
