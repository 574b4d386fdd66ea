"""The files that a run leaves in its folder: weights, schema, predictions, verdicts, the composed config."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.data.encoding import ClassLabel, FeatureSchema
from mlops_hydra.errors import ConfigError, Fault, TrackingError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.verdicts import Verdict

CONFIG: Final = "config.yaml"
WEIGHTS: Final = "weights.safetensors"
SCHEMA: Final = "schema.json"
PREDICTIONS: Final = "predictions.parquet"
VERDICTS: Final = "verdicts.json"
HISTORY: Final = "history.json"
DATA: Final = "data.json"
LINEAGE: Final = "lineage.json"


def write_text(path: Path, text: str) -> Path:
    """Raises TrackingError when the disk does not take it."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrackingError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def write_weights(folder: Path, graph: nn.Module) -> Path:
    """Parameters and buffers of the whole graph as safetensors: data only, nothing that could run.

    Raises:
        TrackingError: the disk does not take them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(graph, str(folder / WEIGHTS))
    except SafetensorError as error:  # its only word for what the disk refuses
        raise TrackingError(f"{folder / WEIGHTS}: cannot be written: {error}") from error
    return folder / WEIGHTS


def load_weights(graph: nn.Module, folder: Path) -> None:
    """The inverse of `write_weights`, into a graph of the same config and data.

    Raises:
        TrackingError: the file is missing, damaged or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(graph, folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TrackingError(f"{folder / WEIGHTS} is missing or damaged ({reason}); reuse=never trains again") from error


def start_from_weights(network: nn.Module, features: nn.Module | None, folder: Path) -> None:
    """Load what `write_weights` wrote into a network, and into the embeddings of its features; statistics stay.

    Raises:
        ConfigError: they do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    graph = nn.ModuleDict({"model": network})
    if features is not None and (embeddings := getattr(features, "embeddings", None)):
        graph["features"] = nn.ModuleDict({"embeddings": embeddings})
    try:
        missing, unexpected = load_model(graph, folder / WEIGHTS, strict=False)
    except (OSError, SafetensorError) as error:
        raise TrackingError(f"{folder / WEIGHTS} is missing or damaged: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            Fault("init_from", f"its weights do not fit this model: {' '.join(str(error).split())}")
        ) from error
    strange = [name for name in unexpected if name.startswith(("model.", "features.embeddings."))]
    if missing or strange:
        names = ", ".join(sorted([*missing, *strange])[:5])
        raise ConfigError(Fault("init_from", f"its weights do not fit this model; one of the two lacks {names}"))


def read_weights(folder: Path) -> dict[str, Any]:
    """Tensors by name.

    Raises:
        TrackingError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise TrackingError(f"{folder / WEIGHTS} is missing or damaged: {error}") from error


def write_schema(folder: Path, schema: FeatureSchema) -> Path:
    """What encodes a raw row."""
    return write_text(folder / SCHEMA, schema.to_json())


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> Path:
    """What each epoch measured."""
    write_json_atomic(folder / HISTORY, {"epochs": [dict(entry) for entry in history]})
    return folder / HISTORY


def read_history(folder: Path) -> tuple[dict[str, float], ...]:
    """The inverse of `write_history`; what was not finite is NaN.

    Raises:
        TrackingError: the file is missing or damaged.
    """
    try:
        epochs = (read_json(folder / HISTORY) or {})["epochs"]
        return tuple({name: math.nan if v is None else v for name, v in entry.items()} for entry in epochs)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TrackingError(f"{folder / HISTORY} is missing or damaged; reuse=never trains again") from error


def write_verdicts(folder: Path, verdicts: Sequence[Verdict]) -> Path:
    """Each gate with its evidence."""
    write_json_atomic(folder / VERDICTS, {"gates": [asdict(verdict) for verdict in verdicts]})
    return folder / VERDICTS


def write_predictions(
    folder: Path,
    splits: Mapping[str, Predicted],
    rows: Mapping[str, NDArray[Any]],
    classes: Sequence[ClassLabel],
) -> Path:
    """One line a row: split, row number in the source, target, prediction, and for classes their probabilities.

    With it gates can be judged again without the model. Labels are text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for name, split in splits.items():
        columns: dict[str, Any] = {"split": [name] * len(split.targets), "row": rows[name]}
        if classes:
            labels = np.array([str(label) for label in classes], dtype=object)
            columns |= {"target": labels[split.targets], "prediction": labels[split.predictions.argmax(axis=1)]}
            columns |= {f"p_{label}": split.predictions[:, code] for code, label in enumerate(labels)}
        else:
            columns |= {"target": split.targets, "prediction": split.predictions}
        parts.append(pa.table(columns))
    try:
        pq.write_table(pa.concat_tables(parts), folder / PREDICTIONS)
    except OSError as error:
        raise TrackingError(f"{folder / PREDICTIONS}: cannot be written: {error.strerror}") from error
    return folder / PREDICTIONS


def read_predictions(folder: Path) -> "RecordedPredictions":
    """What `write_predictions` wrote, as codes and probabilities, or values.

    Raises:
        TrackingError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / PREDICTIONS
    try:
        table = pq.read_table(path)
        names = [str(name) for name in table["split"].unique().to_pylist()]
        labels = tuple(name.removeprefix("p_") for name in table.column_names if name.startswith("p_"))
        predicted = {name: _predicted(table, name, labels) for name in names}
        return RecordedPredictions(predicted, {name: _of(table, name, "row") for name in names}, labels)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        message = f"{path} cannot be read: {str(error).partition(chr(10))[0]}"
        raise TrackingError(f"{message}; reuse=never trains again") from error


@dataclass(frozen=True, slots=True)
class RecordedPredictions:
    """By split: targets and predictions, and the number of each row [n] in the source; and the classes as text."""

    splits: Mapping[str, Predicted]
    rows: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...]


def _of(table: Any, split: str, column: str) -> NDArray[Any]:
    values: NDArray[Any] = table[column].to_numpy(zero_copy_only=False)
    chosen: NDArray[np.bool_] = table["split"].to_numpy(zero_copy_only=False) == split
    return values[chosen]


def _predicted(table: Any, split: str, labels: Sequence[str]) -> Predicted:
    targets = _of(table, split, "target")
    if not labels:
        return Predicted(targets, _of(table, split, "prediction"))
    codes = np.array([labels.index(label) for label in targets], dtype=np.int64)
    return Predicted(codes, np.column_stack([_of(table, split, f"p_{label}") for label in labels]))
