"""What is packaged of a run: first what predicts, then, once it is judged, what is known of it; the manifest last.

A folder without a manifest is no bundle, so one that was begun is not taken for one. Reading is `bundle.py`'s.
"""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from mlops_hydra.atomic import json_text, read_json, written_to
from mlops_hydra.data.encoding import ClassLabel, FeatureSchema, encode
from mlops_hydra.data.frames import as_columns
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.data.values import is_missing
from mlops_hydra.errors import ExportError
from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.packaging import bundle, files
from mlops_hydra.packaging.about import BUNDLE, FORMAT
from mlops_hydra.packaging.exporting import Exported, Inputs, export_graph, name_inputs
from mlops_hydra.packaging.golden import ARRAYS, GOLDEN, Golden
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.packaging.profile_file import EMPTY, write_profile
from mlops_hydra.packaging.result import Result
from mlops_hydra.packaging.seal import MANIFEST, seal
from mlops_hydra.training.batches import Batches, LoaderBatches
from mlops_hydra.training.build import Workbench

_GOLDEN_ROWS: Final = 12
_COMPARED_ROWS: Final = 1000


def write_graph(
    folder: Path, graph: PredictionGraph, bench: Workbench, splits: Splits, *, cache: Path | None, key: str
) -> Exported:
    """Graph, weights, schema and golden rows of what was trained, into an empty `folder`.

    Args:
        cache: folder of architectures exported before; see `export_graph`.
        key: what decides the architecture.

    Raises:
        ExportError: the model cannot be packaged; the message is one line that says why.
        TrackingError: the disk does not take it.
    """
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.name != MANIFEST):
            path.unlink()
        model = folder / bundle.MODEL
        if isinstance(splits.test, Table) and splits.schema is not None:
            compared = _encoded(_rows_of(splits.test, _COMPARED_ROWS), splits.schema)
            exported = export_graph(graph, compared, model, cache=cache, key=key)
            _write_table_rows(folder, exported, splits.test, splits.schema)
            files.write_schema(folder, splits.schema)
        else:
            rows = _inputs(bench.test, splits.test)
            exported = export_graph(graph, rows, model, cache=cache, key=key)
            _write_arrays(folder, exported, name_inputs(graph, rows))
        declared = [{"name": item.name, "dtype": item.dtype, "shape": list(item.shape)} for item in exported.inputs]
        _write_json(folder / bundle.GRAPH, {"inputs": declared, "num_classes": exported.graph.num_classes})
        files.write_weights(folder, graph)
        return exported


def seal_bundle(
    folder: Path, result: Result, *, name: str, classes: Sequence[ClassLabel], profile: Profile = EMPTY
) -> None:
    """Add what is known of the run, and the manifest last. Sealing again after another judgement replaces both.

    Args:
        folder: what `write_graph` filled.
        name: of the model.
        classes: labels in the order of the model's outputs; empty for a regression.
        profile: what training showed.

    Raises:
        TrackingError: the disk does not take it.
    """
    about = {
        "format": FORMAT,
        "name": name,
        "fingerprint": result.fingerprint,
        "lineage": result.lineage.digest,
        "run_id": result.run_id,
        "task": result.task,
        "classes": list(classes),
        "verdict": result.verdict,
        "versions": _versions(),
    }
    with written_to(folder):
        _write_json(folder / BUNDLE, about)
        _write_json(folder / bundle.METRICS, result.metrics)
        files.write_verdicts(folder, result.gates)
        _write_json(folder / bundle.LINEAGE, _lineage(result))
        write_profile(folder, profile)
        seal(folder)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    files.write_text(path, json_text(data))


def _lineage(result: Result) -> dict[str, Any]:
    """The digests, and the commit where there is one; never the patch, which may be nobody's business."""
    digests = {name: getattr(result.lineage, name) for name in ("config", "data", "code", "digest")}
    git = (read_json(result.folder / files.LINEAGE) or {}).get("git")
    known = {name: git.get(name) for name in ("commit", "dirty")} if isinstance(git, dict) else {}
    return {"fingerprint": result.fingerprint, **digests, **known}


def _versions() -> dict[str, str]:
    names = ("mlops_hydra", "torch", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _spread(num_rows: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` row numbers from the first to the last, evenly.

    Raises:
        ExportError: there are no rows.
    """
    if num_rows == 0:
        raise ExportError("the test split has no rows to try the graph on")
    return np.unique(np.linspace(0, num_rows - 1, min(wanted, num_rows)).round().astype(np.int64))


def _rows_of(table: Table, wanted: int) -> dict[str, NDArray[Any]]:
    return as_columns(table.features.iloc[_spread(len(table), wanted)])


def _encoded(columns: Mapping[str, Any], schema: FeatureSchema) -> tuple[Tensor, Tensor]:
    encoded = encode(columns, schema)
    return torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.codes)


def _write_table_rows(folder: Path, exported: Exported, table: Table, schema: FeatureSchema) -> None:
    columns = _rows_of(table, _GOLDEN_ROWS)
    rows = {name: [_plain(value) for value in _listed(columns[name])] for name in schema.names}
    encoded, again = encode(columns, schema), encode(json.loads(json.dumps(rows, allow_nan=False)), schema)
    same = np.array_equal(encoded.numeric, again.numeric, equal_nan=True) and np.array_equal(encoded.codes, again.codes)
    if not same:
        raise ExportError("its raw rows cannot be kept as JSON")
    outputs = exported.graph.run({"numeric": encoded.numeric, "codes": encoded.codes}, len(encoded))
    timestamps = tuple(
        feature.name
        for feature in schema.features
        if feature.kind == "date" and not any(isinstance(value, str) for value in _listed(columns[feature.name]))
    )
    golden = Golden(rows, outputs, exported.tolerance, timestamps)
    _write_json(folder / GOLDEN, golden.as_json(with_rows=True))


def _listed(values: NDArray[Any]) -> list[Any]:
    """Python values; datetimes to the microsecond, which is what `encode` reads of them."""
    return list((values.astype("datetime64[us]") if values.dtype.kind == "M" else values).tolist())


def _plain(value: Any) -> str | float | int | bool | None:
    """A raw value as JSON has it, such that `encode` reads the same of it."""
    if is_missing(value):
        return None
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, str | float | int | bool) else str(value)


def _write_arrays(folder: Path, exported: Exported, inputs: Mapping[str, Tensor]) -> None:
    from safetensors.numpy import save_file

    chosen = _spread(len(next(iter(inputs.values()))), _GOLDEN_ROWS)
    rows = {name: np.ascontiguousarray(value.numpy()[chosen]) for name, value in inputs.items()}
    golden = Golden({}, exported.graph.run(rows, len(chosen)), exported.tolerance)
    save_file(rows, folder / ARRAYS)
    _write_json(folder / GOLDEN, golden.as_json(with_rows=False))


def _inputs(batches: Batches, dataset: "Table | Dataset[Any]") -> Inputs:
    """What the model is called with for some rows of the test split; a stream gives its first ones.

    Raises:
        ExportError: there are no rows, or they hold something else than tensors.
    """
    if isinstance(batches, LoaderBatches) and not isinstance(dataset, IterableDataset):
        chosen = Subset(dataset, _spread(len(dataset), _GOLDEN_ROWS).tolist())  # type: ignore[arg-type]
        batches = LoaderBatches(
            chosen, batch_size=_GOLDEN_ROWS, seed=batches.seed, shuffle=False, target=batches.target
        )
    batch = next(iter(batches.epoch(0)), None)
    if batch is None:
        raise ExportError("the test split has no rows to try the graph on")
    if isinstance(batch, Mapping):
        target = getattr(batches, "target", None)
        return {str(name): value for name, value in batch.items() if name != target}
    inputs = tuple(batch[:-1])
    if all(isinstance(part, Tensor) for part in inputs):
        chosen_rows = torch.from_numpy(_spread(len(inputs[0]), _COMPARED_ROWS))
        return tuple(part[chosen_rows.to(part.device)] for part in inputs)
    return inputs
