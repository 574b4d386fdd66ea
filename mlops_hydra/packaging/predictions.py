"""What a trained model says of each split, as arrays in the target's own units and in the order of the rows."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from mlops_hydra.data.dataset_source import read_targets
from mlops_hydra.data.encoding import FeatureSchema, encode
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.packaging.bundle import Bundle
from mlops_hydra.packaging.graph import Graph
from mlops_hydra.packaging.predictor import PredictionGraph, Predictor
from mlops_hydra.training.build import Workbench
from mlops_hydra.training.loop import predict

_PREDICTED_ROWS: Final = 1024  # rows a batch


def predict_splits(bench: Workbench, splits: Splits, graph: PredictionGraph) -> dict[str, Predicted]:
    """Validation and test; targets as they came, where they are known, rather than scaled to float32 and back."""
    predicted = {}
    for name, batches in (("val", bench.val), ("test", bench.test)):
        split = as_predicted(*predict(bench.learner.model, batches), graph)
        known = splits.targets(name)
        predicted[name] = split if known is None else Predicted(known, split.predictions)
    return predicted


def as_predicted(outputs: Tensor, targets: Tensor, graph: PredictionGraph) -> Predicted:
    """Outputs and targets as the model sees them -> arrays in the target's units."""
    predictions = graph.finish(outputs.cpu()).numpy()
    actual = graph.finish(targets.cpu()) if graph.task == "regression" else targets.cpu()
    return Predicted(actual.numpy(), predictions)


def train_targets(splits: Splits, target: str | None) -> NDArray[Any]:
    """Class codes or values `[n]` of the training split; a stream is read once more for them."""
    known = splits.targets("train")
    return read_targets(cast("Iterable[Any]", splits.train), target) if known is None else known


def one_row(
    bench: Workbench, splits: Splits, graph: PredictionGraph, exported: Graph | None = None
) -> Callable[[], object]:
    """A call that predicts one row, as raw as it comes: by the exported graph, or else by the module."""
    if isinstance(splits.test, Table) and splits.schema is not None:
        schema = splits.schema
        row = {str(name): [values[0]] for name, values in splits.test.columns().items()}
        if exported is None:
            predictor = Predictor(graph, schema)
            return lambda: predictor.predict(row)
        return lambda: exported.run(_encoded(row, schema), 1)
    batch = next(iter(bench.test.epoch(0)))
    model = bench.learner.model.cpu().eval()
    one = _first_row(batch)
    if exported is None:
        return torch.no_grad()(lambda: bench.test.forward(model, one))
    named = one if isinstance(one, Mapping) else {f"input_{place}": value for place, value in enumerate(one)}
    arrays = {item.name: _array(named[item.name]) for item in exported.inputs}
    return lambda: exported.run(arrays, 1)


def _encoded(columns: Mapping[str, Any], schema: FeatureSchema) -> dict[str, NDArray[Any]]:
    encoded = encode(columns, schema)
    return {"numeric": encoded.numeric, "codes": encoded.codes}


def _first_row(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch[:1].cpu()
    if isinstance(batch, Mapping):
        return {key: _first_row(value) for key, value in batch.items()}
    return tuple(_first_row(value) for value in batch) if isinstance(batch, tuple | list) else batch


def bundle_outputs(bundle: Bundle, split: Any, target: str | None = None) -> NDArray[np.float64]:
    """What a bundle says of a table, or of a torch Dataset, whose items are `(inputs, target)` or mappings.

    Raises:
        DataError: the rows are not what the bundle takes.
    """
    if isinstance(split, Table):
        return bundle.outputs(split.columns())
    parts = []
    for batch in DataLoader(split, batch_size=_PREDICTED_ROWS):
        if isinstance(batch, Mapping):
            rows: Any = {name: _array(values) for name, values in batch.items() if name != target}
        else:
            rows = tuple(_array(values) for values in batch[:-1])
        parts.append(bundle.outputs(rows[0] if isinstance(rows, tuple) and len(rows) == 1 else rows))
    return np.concatenate(parts)


def _array(values: Any) -> NDArray[Any]:
    """As a network is called: floats in single precision."""
    array: NDArray[Any] = (values.float() if values.is_floating_point() else values).numpy()
    return array


def row_numbers(splits: Splits, name: str, num_rows: int) -> NDArray[Any]:
    """Where the rows of a split stand in the source, from 0; a Dataset counts its own."""
    split = splits[name]
    return split.rows if isinstance(split, Table) else np.arange(num_rows)
